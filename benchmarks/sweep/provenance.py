"""What a row was measured with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import time
from pathlib import Path

PACKAGES = ('mmdms', 'mmpretrain', 'mmdet', 'mmyolo', 'mmengine', 'mmcv', 'torch')


def provenance() -> dict[str, str]:
    """Versions, commit and machine.

    Nothing is imported, so that the sweep's own process stays small. ``source`` is a
    digest of the package's Python files: unlike a commit, it tells edits that are not committed.
    """
    spec = importlib.util.find_spec('mmdms')
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError('mmdms is not installed: run `make venv`, then use .venv/bin/python')
    package = Path(spec.origin).parent
    owners = importlib.metadata.packages_distributions()
    versions = {name: importlib.metadata.version(owners[name][0]) for name in PACKAGES if name in owners}
    return dict(
        **{f'{name}_version': version for name, version in versions.items()},
        source=_digest(package),
        commit=_commit(package),
        machine=f'{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}',
        date=time.strftime('%Y-%m-%d'),
    )


def _digest(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob('*.py')):
        digest.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit(package: Path) -> str:
    """Last commit of the package, with a ``+`` if files of it differ; empty outside a git repository."""

    def git(*args: str) -> str:
        done = subprocess.run(['git', '-C', str(package), *args], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ''

    commit = git('log', '-1', '--format=%h', '--', '.')
    return commit + '+' if commit and git('status', '--porcelain', '--', '.') else commit
