"""Write an export: config, checkpoint, structure and report, whole or not at all."""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ...errors import ConfigError

CHECKPOINT = 'checkpoint.pth'
FILES = ('config.py', CHECKPOINT, 'subnet.json', 'report.json')


def check_output(folder: str | Path, overwrite: bool) -> Path:
    """Raise ConfigError if ``folder`` holds files already, unless they may be overwritten."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(f'output folder {str(path)!r} is a file: name a folder')
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ConfigError(f'output folder {str(path)!r} has files in it: name another, or pass --overwrite')
    # Tracing and verifying take a while: what can be known of the folder is known before.
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    for place in (parent, path) if path.is_dir() else (parent,):
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(
                f'cannot write the export to {str(path)!r}: {str(place)!r} is no folder that may be written; '
                'name another'
            )
    return path


def write_export(
    folder: Path, config: dict[str, Any], checkpoint: dict[str, Any], structure: str | None, report: dict[str, Any]
) -> None:
    """Write the files of an export into a folder beside, then put that in place of ``folder``.

    A process that is killed meanwhile leaves what was there, and a hidden folder beside it that can be deleted.

    Args:
        folder: where the files go.
        config: content of ``config.py``.
        checkpoint: content of ``checkpoint.pth``, without ``meta``.
        structure: text of ``subnet.json``; None where no structure was searched, and there is no such file.
        report: content of ``report.json``.

    Raises:
        ConfigError: if the folder cannot be written; what was there stays.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}-') as temporary:
            scratch = Path(temporary, 'export')  # a folder for others to read, which a temporary one is not
            scratch.mkdir()
            Config(config).dump(scratch / 'config.py')
            _save({**checkpoint, 'meta': {}}, scratch / CHECKPOINT)
            if structure is not None:
                (scratch / 'subnet.json').write_text(structure, encoding='utf-8')
            (scratch / 'report.json').write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
            _put_in_place(scratch, folder)
    except OSError as error:
        raise ConfigError(
            f'cannot write the export to {str(folder)!r}: {error}; what was there is as it was: '
            'make room or name another folder'
        ) from error


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # how PyTorch says that a disk is full
        raise OSError(f'{path.name}: {str(error).splitlines()[0]}') from error


def _put_in_place(scratch: Path, folder: Path) -> None:
    """Make ``folder`` what ``scratch`` is: in one step, unless it holds files of others."""
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(scratch, folder)
    elif {path.name for path in folder.iterdir()} <= set(FILES) and not folder.is_symlink():
        if not _exchange(scratch, folder):
            _replace_each(scratch, folder)
    else:
        _replace_each(scratch, folder)


def _replace_each(scratch: Path, folder: Path) -> None:
    for name in FILES:
        if (scratch / name).exists():
            os.replace(scratch / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders of one file system trade their names in one step; False where the system cannot (not Linux)."""
    at_current, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None), 'renameat2', None)
    return rename is not None and rename(at_current, os.fsencode(one), at_current, os.fsencode(other), exchange) == 0
