"""Say what is installed, what of mmdms works with it, and what to install for the rest: ``python -m mmdms.doctor``.

The exit status is 0, or 1 where something that mmdms itself needs is missing or too old.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

# Nothing of mmdms but this is imported before it is known that it can be.
MINIMUM_PYTHON = (3, 10)
MINIMUM_TORCH = (2, 6)


@dataclass(frozen=True)
class Finding:
    """One row: what was looked for, whether it works, what was found and what to do."""

    name: str
    works: bool
    needed: bool
    found: str
    remedy: str = ''

    @property
    def verdict(self) -> str:
        """``'ok'``; ``'MISSING'`` for what mmdms needs; ``'without'`` for the rest."""
        return 'ok' if self.works else 'MISSING' if self.needed else 'without'


def version_of(package: str) -> str:
    """Version of a package that imports; its import is the proof that it works.

    Raises:
        Exception: whatever its import raises.
    """
    return str(getattr(importlib.import_module(package), '__version__', 'no version'))


def numbers(version: str) -> tuple[int, ...]:
    """First two numbers of a version: ``'2.11.0+cu128'`` is (2, 11)."""
    parts = version.split('+')[0].split('.')[:2]
    return tuple(int(''.join(c for c in part if c.isdigit()) or 0) for part in parts)


def look(
    name: str,
    what: Callable[[], str],
    gives: str,
    remedy: str,
    needed: bool = False,
    minimum: tuple[int, ...] | None = None,
) -> Finding:
    """Run ``what``, which returns what it found or raises."""
    try:
        found = what()
    except Exception as error:  # an import of a broken package raises anything
        reason = (str(error).splitlines() or [''])[0]
        said = 'not installed' if isinstance(error, ModuleNotFoundError) else f'{type(error).__name__}: {reason}'
        return Finding(name, False, needed, f'{said} ({gives})', remedy)
    if minimum is not None and numbers(found) < minimum:
        return Finding(name, False, needed, f'{found} is older than {".".join(map(str, minimum))}', remedy)
    return Finding(name, True, needed, f'{found} ({gives})')


def diagnose() -> list[Finding]:
    """Look at everything; imports what is installed."""
    rows = [
        look('python', platform.python_version, 'runs mmdms', 'install Python 3.11', True, MINIMUM_PYTHON),
        look(
            'torch', lambda: version_of('torch'), 'search and export', 'pip install "torch>=2.6"', True, MINIMUM_TORCH
        ),
        look('numpy', lambda: version_of('numpy'), 'search and export', 'pip install numpy', True),
        look('mmengine', lambda: version_of('mmengine'), 'configs and training', 'pip install onedl-mmengine'),
        look('mmcv', lambda: version_of('mmcv'), 'configs and training', 'pip install onedl-mmcv'),
        look(
            'mmcv ops',
            mmcv_ops,
            'compiled layers of detectors',
            'install mmcv built for this torch (make venv builds it), or do without detectors',
        ),
        look('mmdms', _mmdms, 'all of it', 'see the rows above; then pip install -e . in its folder', True),
    ]
    zoo = (
        ('mmpretrain', 'pip install onedl-mmpretrain', 'classifiers and their configs'),
        ('mmdet', 'pip install onedl-mmdetection', 'detectors and their configs'),
        ('mmyolo', 'pip install mmyolo onedl-mmdetection', 'YOLO detectors and their configs'),
    )
    rows += [look(name, lambda name=name: version_of(name), gives, remedy) for name, remedy, gives in zoo]  # type: ignore[misc]
    rows += [
        look(
            'GPU', _gpu, 'training at speed, --amp', 'training works on the CPU, slowly; needs a CUDA build of torch'
        ),
        look('onnx', lambda: version_of('onnx'), 'export of subnets to ONNX by PyTorch', 'pip install onnx'),
        look('onnxruntime', lambda: version_of('onnxruntime'), 'running ONNX files', 'pip install onnxruntime'),
    ]
    return rows


def mmcv_ops() -> str:
    """Run a compiled operation of mmcv."""
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    kept = nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[1]
    if kept.tolist() != [0]:
        raise RuntimeError(f'nms kept {kept.tolist()} of two equal boxes')
    return 'run'


def _mmdms() -> str:
    if all(importlib.util.find_spec(name) for name in ('mmengine', 'mmcv')):
        from mmdms.openmmlab.versions import check_versions

        check_versions()
    return version_of('mmdms')


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError('no GPU that this torch can use')
    return ', '.join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def report(rows: list[Finding]) -> str:
    """The table, and what to do."""
    width = max(len(row.name) for row in rows)
    lines = [f'{row.name:>{width}}  {row.verdict:<8} {row.found}' for row in rows]
    advice = [f'{row.name}: {row.remedy}' for row in rows if not row.works]
    return '\n'.join([*lines, *(['', 'for the rest:'] if advice else []), *advice])


def main() -> int:
    """Print the report; returns the exit status."""
    rows = diagnose()
    print(report(rows))
    return int(any(row.needed and not row.works for row in rows))


if __name__ == '__main__':
    sys.exit(main())
