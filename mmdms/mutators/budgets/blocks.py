"""Which removed block returns first, and which block goes next."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


class BlockOrder:
    """Orders the blocks of all depth units by their gates, and where gates are equal by importance.

    The gate of a block grows with ``wanted - place``: its unit's searched number of blocks, minus how many blocks of
    the unit outrank it.

    Args:
        wanted: searched number of elements per unit, shape (units,), as a real number.
        depth: units whose blocks may return or go, boolean, shape (units,).
        total: elements per unit, shape (units,).
        unit, place: unit of every element, and how many elements of the unit outrank it, shape (elements,).
        importance: of every element, comparable between units, shape (elements,); None: all the same.
        minimum: fewest elements per unit, shape (units,).
    """

    def __init__(
        self,
        wanted: Tensor,
        depth: Tensor,
        total: Tensor,
        unit: Tensor,
        place: Tensor,
        importance: Tensor | None,
        minimum: Tensor,
    ) -> None:
        self._wanted = wanted.tolist()
        self._minimum = minimum.tolist()
        self._total = total.tolist()
        self._units = depth.nonzero().flatten().tolist()
        values = torch.zeros_like(place) if importance is None else importance.double().cpu()
        # Importance of the blocks of each depth unit, in the order of their ranks.
        self._importance = {u: values[unit == u][torch.argsort(place[unit == u])].tolist() for u in self._units}

    def next_in(self, counts: Tensor, left_out: Collection[int] = ()) -> int | None:
        """Unit whose next block returns, given kept elements per unit (units,); None if there is none.

        ``left_out`` are units that get no block.
        """
        kept = counts.tolist()
        able = [u for u in self._units if kept[u] < self._total[u] and u not in left_out]
        return max(able, key=lambda u: (*self._worth(u, int(kept[u])), -u), default=None)

    def next_out(self, counts: Tensor) -> int | None:
        """Unit whose last block goes, given kept elements per unit (units,); None if there is none."""
        kept = counts.tolist()
        able = [u for u in self._units if kept[u] > self._minimum[u]]
        return min(able, key=lambda u: (*self._worth(u, int(kept[u]) - 1), -u), default=None)

    def _worth(self, unit: int, place: int) -> tuple[float, float]:
        return self._wanted[unit] - place, self._importance[unit][place]
