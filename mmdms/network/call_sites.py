"""Where in a forward a function of PyTorch is called."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class CallSite(NamedTuple):
    """The innermost module that runs, and the line that calls.

    Attributes:
        owner: the module, which was called itself; None outside of all modules.
        line: ``'function at file.py:line'``.
    """

    owner: nn.Module | None
    line: str


def call_site(func: Any) -> CallSite:
    """Where ``func`` is called; to be asked by the ``__torch_function__`` of a mode."""
    frame: FrameType | None = sys._getframe(1)
    caller = None
    while frame is not None and frame.f_code is not _CALL:
        if caller is None and frame.f_code.co_filename not in _INSIDE and frame.f_code.co_name != '__torch_function__':
            caller = frame
        frame = frame.f_back
    line = '' if caller is None else f'{Path(caller.f_code.co_filename).name}:{caller.f_lineno}'
    return CallSite(None if frame is None else frame.f_locals['self'], f'{func.__name__} at {line}')


class Occurrences:
    """Numbers the calls of every line: a loop calls a function several times."""

    def __init__(self) -> None:
        self._met: Counter[str] = Counter()

    def name(self, line: str) -> str:
        """The line, with the number of its call behind it from the second on."""
        self._met[line] += 1
        return line if self._met[line] == 1 else f'{line} ({self._met[line]})'


_CALL = nn.Module._call_impl.__code__
_INSIDE = {module.__file__ for module in (torch.functional, torch._tensor, torch.overrides, F)}
"""Files of PyTorch that call a function on behalf of its caller."""
