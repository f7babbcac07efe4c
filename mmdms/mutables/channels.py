"""Channels: positions along a dimension of weights and activations."""

from __future__ import annotations

from typing import Any

from ..registry import MUTABLES
from .base import MutableUnit

FAST_MULTIPLE = 8
"""Widths that are multiples of 8 run at full speed on most hardware."""

CHOICES = 8
"""With the divisor ``'auto'`` a unit has at least this many widths to choose from."""


@MUTABLES.register_module('channels')
class ChannelUnit(MutableUnit):
    """Channels of one layer, or of several layers that must keep the same ones.

    Without a ``divisor`` of their own they follow that of the mutator; ``'auto'`` is the largest power of two up to 8
    that leaves at least 8 choices (64 channels: 8, 32: 4, 8: 1), so that tiny networks keep theirs.
    """

    noun = 'channel'
    counted_by_attribute = False
    pruned_by_magnitude = True

    @classmethod
    def checked_divisor(cls, divisor: Any) -> int | str:
        """See :meth:`MutableUnit.checked_divisor`; ``'auto'`` too."""
        return divisor if divisor == 'auto' else super().checked_divisor(divisor)

    def step(self, total: int, divisor: int | str) -> int:
        """See :meth:`MutableUnit.step`."""
        divisor = divisor if self.divisor is None else self.divisor
        if isinstance(divisor, int):
            return min(divisor, total)
        return next((step for step in (FAST_MULTIPLE, 4, 2) if total >= CHOICES * step), 1)
