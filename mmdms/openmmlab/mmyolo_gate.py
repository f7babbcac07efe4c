"""Let mmyolo be imported beside a current mmcv.

The last release of mmyolo (0.6.0, 2023) asserts ``mmcv < 2.1.0`` when it is
imported, though its models run on later versions (the tests of mmdms run them).
``import mmdms`` puts a finder before those of Python: while ``mmyolo/__init__.py`` runs,
and no longer, mmcv shows it an older version. No installed file changes, and
without mmyolo nothing happens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

SHOWN = '2.0.1'
"""The version of mmcv that mmyolo is shown."""


class MMYoloFinder(MetaPathFinder):
    """Finds mmyolo as Python does, and lifts its gate while it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of ``mmyolo``; None for any other module, and where mmyolo is not installed."""
        if fullname != 'mmyolo':
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def lifted(module: ModuleType) -> None:
            import mmcv
            from mmengine.utils import digit_version

            real = mmcv.__version__
            mmcv.__version__ = min(real, SHOWN, key=digit_version)
            try:
                execute(module)
            finally:
                mmcv.__version__ = real

        spec.loader.exec_module = lifted  # type: ignore[method-assign]
        return spec


def lift_mmyolo_gate() -> None:
    """Put the finder in place, once."""
    if not any(isinstance(finder, MMYoloFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MMYoloFinder())
