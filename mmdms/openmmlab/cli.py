"""What every command line tool does around its ``main``."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mmengine.config import DictAction

from mmdms.errors import MMDMSError
from mmdms.openmmlab.safe_load import force_plain_loads


def run_cli(main: Callable[[], object]) -> None:
    """Run ``main``; turn an error that the user can act on into one line on stderr and exit status 2.

    Files of PyTorch are read as plain data from here on.
    """
    force_plain_loads()
    try:
        main()
    except MMDMSError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print ``message`` as one line on stderr and exit with status 2, as argparse does for bad arguments."""
    print(f'error: {" ".join(message.split())}', file=sys.stderr)
    sys.exit(2)


class CfgOptions(DictAction):
    """mmengine's ``DictAction``, where a malformed item is a usage error instead of a traceback."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        """Parse ``key=value`` items into a dict."""
        for item in values:
            if '=' not in item:
                raise argparse.ArgumentError(
                    self, f'got {item!r}; write key=value, for example train_cfg.max_epochs=5'
                )
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the config, for example train_cfg.max_epochs=5 model.backbone.depth=34; '
        'lists as key="[a,b]" or key=a,b, without white space',
    )
