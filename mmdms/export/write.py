"""Write an export: config, checkpoint, structure and report, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..errors import ConfigError

CHECKPOINT = 'checkpoint.pth'
FILES = ('config.py', CHECKPOINT, 'subnet.json', 'report.json')


def check_output(folder: str | Path, overwrite: bool) -> Path:
    """Raise ConfigError if ``folder`` holds files already, unless they may be overwritten."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(f'output folder {str(path)!r} is a file: name a folder')
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ConfigError(f'output folder {str(path)!r} has files in it: name another, or pass --overwrite')
    return path


def write_export(
    folder: Path, config: dict[str, Any], state_dict: dict[str, torch.Tensor], structure: str, report: dict[str, Any]
) -> None:
    """Write the four files of an export beside each other first, then move them into place.

    Raises:
        ConfigError: if the folder cannot be written; what was there stays.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}-') as temporary:
            scratch = Path(temporary)
            Config(config).dump(scratch / 'config.py')
            torch.save(dict(state_dict=state_dict, meta={}), scratch / CHECKPOINT)
            (scratch / 'subnet.json').write_text(structure, encoding='utf-8')
            (scratch / 'report.json').write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
            folder.mkdir(exist_ok=True)
            for name in FILES:
                os.replace(scratch / name, folder / name)
    except OSError as error:
        raise ConfigError(f'cannot write the export to {str(folder)!r}: {error}') from error
