"""Depth: residual blocks that stand in a row."""

from __future__ import annotations

from ..registry import MUTABLES
from .base import MutableUnit


@MUTABLES.register_module('depth')
class DepthUnit(MutableUnit):
    """Blocks of one row. All of them may go; what remains is the identity. They return or go one by one."""

    minimum = 0
    sharpness = 4.0
    noun = 'block'
    gates_modules = True
    counted_by_attribute = False

    def __init__(self, minimum: int | None = None, sharpness: float | None = None, order: str | None = None) -> None:
        super().__init__(minimum, sharpness, order)
