"""Messages of the core, in the log of the Runner."""

from __future__ import annotations

import logging

from mmengine.logging import print_log


class RunnerLogHandler(logging.Handler):
    """Hands every message of the logger ``mmdms`` to the logger of mmengine that is current."""

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        print_log(record.getMessage(), logger='current', level=record.levelno)


def log_through_mmengine() -> None:
    """Have the messages of the core appear where mmengine writes its own, and nowhere else."""
    logger = logging.getLogger('mmdms')
    if not any(isinstance(handler, RunnerLogHandler) for handler in logger.handlers):
        logger.addHandler(RunnerLogHandler())
    logger.propagate = False
