"""Load files of PyTorch as plain data, so that reading one never runs code that it brings along.

A pickle can name any function and have it called. With ``weights_only=True`` PyTorch refuses all but tensors and
plain Python data; what mmengine adds to the checkpoints of a training, its log of losses, is allowed here by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
FORCE_NOT = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


def plain_classes() -> list[Any]:
    """What a training checkpoint of mmengine names beyond tensors: its history of losses, and numbers of numpy."""
    core = np._core if hasattr(np, '_core') else np.core
    functions: list[tuple[Callable[..., Any], str]] = [(_statistic, 'builtins.getattr')]
    for name in ('_reconstruct', 'scalar'):
        # Files written with numpy 1 spell the module the old way.
        functions += [
            (getattr(core.multiarray, name), f'numpy.{package}.multiarray.{name}') for package in ('core', '_core')
        ]
    numbers = (np.float64, np.float32, np.int64, np.int32, np.uint32, np.uint8, np.bool_, 'U1')
    return [HistoryBuffer, np.ndarray, np.dtype, *{type(np.dtype(number)) for number in numbers}, *functions]


def _statistic(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, by which a history names its own statistics, and gives nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise ValueError(f'the file asks for attribute {name!r} of {owner!r}, which is no plain data')
    return getattr(owner, name)


def load_plain(file: str | Path) -> Any:
    """What ``torch.save`` wrote, on the CPU; plain data or an error.

    Raises:
        Exception: whatever reading a damaged file raises; ``UnpicklingError`` for what is no plain data.
    """
    # Not for the moment alone: leaving `torch.serialization.safe_globals` would take away what others have allowed.
    torch.serialization.add_safe_globals(plain_classes())
    return torch.load(file, map_location='cpu', weights_only=True)


def force_plain_loads() -> None:
    """From now on refuse all but plain data, whoever reads a file in this process and those that it starts.

    mmengine tries the safe way first, and the unsafe one where that fails. Someone who must load such a file sets
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1``.
    """
    torch.serialization.add_safe_globals(plain_classes())
    if not os.environ.get(FORCE_NOT):
        os.environ.setdefault(FORCE, '1')
