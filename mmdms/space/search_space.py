"""The search space: which elements can be removed, and what each of them costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..space.frozen import Frozen
from .cost_table import CostTable
from .structure import Structure, UnitInfo

FIXED = -1
"""Element index of a position that always stays."""


@dataclass
class ParameterAxis:
    """A dimension of a parameter or buffer whose positions follow elements.

    ``elements``, shape (positions, factors), holds the indices of the elements
    that must all stay for a position to stay, ``FIXED`` where there are none:
    one factor, or two where heads times width are laid out along the dimension.
    ``role`` and ``masked`` are those of :class:`mmdms.tracing.trace.Axis`.
    """

    parameter: str
    dim: int
    role: str
    elements: Tensor
    masked: bool = False


@dataclass
class ModuleSize:
    """An attribute of a module that holds a number of kept positions; ``elements`` as in :class:`ParameterAxis`.

    With ``values``, one per position, it holds those of the kept positions. There are ``times`` as many positions as
    it says. ``'shape[0]'`` is the first item of the tuple ``shape``.
    """

    module: str
    attribute: str
    elements: Tensor
    values: tuple[int, ...] | None = None
    times: Fraction = Fraction(1)


@dataclass
class ModuleMask:
    """A mask that a module applies in its own forward under ``name``; ``elements`` as in :class:`ParameterAxis`."""

    module: str
    name: str
    elements: Tensor


@dataclass
class SearchSpace:
    """Units, the parameters that they slice, and the cost of every structure.

    All units share one element index: unit ``u`` owns the elements
    ``offsets[u] : offsets[u] + units[u].total``.
    """

    units: list[UnitInfo]
    axes: list[ParameterAxis]
    costs: dict[str, CostTable]
    frozen: list[Frozen]
    blocks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  # element of a depth unit -> its modules
    sizes: list[ModuleSize] = field(default_factory=list)
    inner: list[ModuleMask] = field(default_factory=list)
    uncounted: Mapping[str, str] = field(default_factory=dict)  # module -> operation whose FLOPs are not counted
    branches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # block -> parameters that end its branches
    # Dimension of a parameter -> per position the row of ``frozen`` that says why it stays, -1 where it may go.
    held: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    kernels: frozenset[tuple[str, int]] = frozenset()  # dimensions that are spatial extents of convolutions
    tuples: Collection[str] = ()  # blocks that return a tuple of one tensor

    @property
    def offsets(self) -> list[int]:
        """First element of every unit."""
        return [0, *np.cumsum([u.total for u in self.units]).tolist()][:-1]

    @property
    def num_elements(self) -> int:
        """Elements of all units together."""
        return sum(u.total for u in self.units)

    @cached_property
    def unit_of_element(self) -> Tensor:
        """Index of the unit of every element, shape (elements,)."""
        return torch.repeat_interleave(
            torch.arange(len(self.units)), torch.tensor([u.total for u in self.units], dtype=torch.long)
        )

    def mask(self, structure: Structure) -> Tensor:
        """Boolean mask over all elements, shape (elements,), of a structure of this space."""
        structure.check(self.units)
        return (
            torch.cat([torch.from_numpy(structure.mask(u.name)) for u in self.units])
            if self.units
            else torch.zeros(0, dtype=torch.bool)
        )

    def structure(self, mask: Tensor) -> Structure:
        """Structure that keeps the elements where ``mask`` (elements,) is true."""
        parts = torch.split(mask.bool().cpu(), [u.total for u in self.units]) if self.units else ()
        return Structure(self.units, [part.nonzero().flatten().tolist() for part in parts])

    def minimum_mask(self, fewest: Sequence[int] | None = None) -> Tensor:
        """Mask with every unit at its minimum: one element of a channel unit, no block of a depth unit.

        Args:
            fewest: elements that every unit keeps, shape (units,); those of its kind if None.
        """
        mask = torch.zeros(self.num_elements, dtype=torch.bool)
        counts = [unit.minimum for unit in self.units] if fewest is None else fewest
        for offset, count in zip(self.offsets, counts, strict=True):
            mask[offset : offset + count] = True
        return mask

    def counts(self, mask: Tensor) -> Tensor:
        """Kept elements per unit, shape (units,), of a mask (elements,) of any number type."""
        counts = torch.zeros(
            len(self.units), dtype=mask.dtype if mask.is_floating_point() else torch.float64, device=mask.device
        )
        return counts.index_add(0, self.unit_of_element.to(mask.device), mask.to(counts.dtype))

    def cost(self, metric: str, mask: Tensor) -> float:
        """Cost of a hard mask: FLOPs as multiply-accumulates of one sample, or parameters."""
        return float(self.costs[metric](self.counts(mask.double()), mask.double()))

    def prunable_fraction(self, metric: str = 'flops', fewest: Sequence[int] | None = None) -> float:
        """1 - cost with every unit at its minimum / cost of the whole network; ``fewest`` as of minimum_mask."""
        full = self.cost(metric, torch.ones(self.num_elements))
        return 1.0 - self.cost(metric, self.minimum_mask(fewest)) / full if full else 0.0
