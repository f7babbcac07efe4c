"""The cost of a structure as a table: three tensor operations for the whole budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod

import torch
from torch import Tensor

from .structure import UnitInfo


class CostTable:
    """Cost as a sum of ``coefficient * prod(counts) * gate`` over rows.

    A count is ``fixed + sum_u per_unit[u] * counts[u]``: positions that always
    stay, and for every unit the number of positions that each element holds. A
    gate is the mask of the block that encloses the operation, or 1.

    Args:
        fixed: positions that always stay, shape (axes,).
        per_unit: positions per kept element, shape (axes, units).
        coefficients, rows, gates: per row, shapes (rows,), (rows, factors), (rows,);
            ``rows`` indexes axes, ``gates`` elements (-1: none). Two factors are the
            channels in and out; heads times width make it up to four.
    """

    def __init__(self, fixed: Tensor, per_unit: Tensor, coefficients: Tensor, rows: Tensor, gates: Tensor) -> None:
        self.fixed, self.per_unit, self.coefficients, self.rows, self.gates = (
            fixed,
            per_unit,
            coefficients,
            rows,
            gates,
        )

    def __call__(self, counts: Tensor, mask: Tensor) -> Tensor:
        """Cost, a scalar, differentiable in both arguments.

        Args:
            counts: kept elements per unit, shape (units,).
            mask: value of every element, shape (elements,); read for gates.
        """
        axis = torch.addmv(self.fixed, self.per_unit, counts)
        gated = torch.cat([mask, mask.new_ones(1)])[self.gates]
        cost = self.coefficients * gated
        for factor in self.rows.unbind(1):
            cost = cost * axis[factor]
        return cost.sum()

    @cached_property
    def gated(self) -> Tensor:
        """Elements whose masks the rows read, ascending, shape (gated,)."""
        return self.gates[self.gates >= 0].unique()

    def of_many(self, counts: Tensor, opened: Tensor) -> Tensor:
        """Costs of many structures in one go, shape (structures,).

        Args:
            counts: kept elements per unit, shape (structures, units).
            opened: masks of the elements in :attr:`gated`, shape (structures, gated).
        """
        axis = torch.addmm(self.fixed, counts, self.per_unit.T)
        always = opened.new_ones(len(opened), 1)
        cost = self.coefficients * torch.cat([opened, always], 1)[:, self._gate_column]
        for factor in self.rows.unbind(1):
            cost = cost * axis[:, factor]
        return cost.sum(1)

    @cached_property
    def _gate_column(self) -> Tensor:
        """Column of every row's gate in ``opened``, shape (rows,); the last one, of ones, where there is no gate."""
        return torch.where(self.gates < 0, len(self.gated), torch.searchsorted(self.gated, self.gates))

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float64) -> CostTable:
        """The same table elsewhere."""
        return CostTable(
            self.fixed.to(device, dtype), self.per_unit.to(device, dtype), self.coefficients.to(device, dtype),
            self.rows.to(device), self.gates.to(device),
        )  # fmt: skip


class CostTableBuilder:
    """Collects rows and merges those that count the same axes under the same gate."""

    def __init__(self, units: Sequence[UnitInfo]) -> None:
        self._units = units
        self._unit_of = torch.repeat_interleave(
            torch.arange(len(units)), torch.tensor([u.total for u in units], dtype=torch.long)
        )
        self._axes: dict[tuple[float, ...], int] = {}
        self._rows: dict[tuple[int, tuple[int, ...]], float] = {}
        self._one = self._axis([1.0] + [0.0] * len(units))

    def add(self, coefficient: float, axes: Sequence[Tensor], gate: int | None) -> None:
        """Add ``coefficient * prod(count(axis))``.

        Args:
            coefficient: cost per combination of positions.
            axes: each the elements of an axis, shape (positions, factors), as in
                :class:`mmdms.space.search_space.ParameterAxis`.
            gate: element of the depth unit that encloses the operation, if any.
        """
        for parts in product(*(self._parts(axis) for axis in axes)):
            factors = sorted(factor for _, found in parts for factor in found)
            key = (-1 if gate is None else gate, tuple(factors))
            self._rows[key] = self._rows.get(key, 0.0) + coefficient * prod(scale for scale, _ in parts)

    def build(self) -> CostTable:
        """The table, in float64."""
        table = torch.tensor(list(self._axes), dtype=torch.float64)
        width = max([2, *(len(factors) for _, factors in self._rows)])
        rows = [[*factors, *[self._one] * (width - len(factors))] for _, factors in self._rows]
        coefficients = torch.tensor(list(self._rows.values()), dtype=torch.float64)
        gates = torch.tensor([gate for gate, _ in self._rows], dtype=torch.long)
        rows_tensor = torch.tensor(rows, dtype=torch.long).view(-1, width)
        return CostTable(table[:, 0].clone(), table[:, 1:].clone(), coefficients, rows_tensor, gates)

    def _axis(self, row: list[float]) -> int:
        return self._axes.setdefault(tuple(row), len(self._axes))

    def _parts(self, elements: Tensor) -> list[tuple[float, list[int]]]:
        """The count of kept positions as a sum of ``scale * prod(counts)``."""
        known = (elements >= 0).sum(1)
        single = elements[known < 2].amax(1)
        positions = torch.bincount(self._unit_of[single[single >= 0]], minlength=len(self._units))
        per_unit = [float(n) / unit.total for n, unit in zip(positions.tolist(), self._units, strict=True)]
        parts: list[tuple[float, list[int]]] = []
        if len(single) or not len(elements):
            parts.append((1.0, [self._axis([float((single < 0).sum()), *per_unit])]))
        pairs, counts = torch.unique(self._unit_of[elements[known == 2]], dim=0, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            # Every combination of the two units' elements is there equally often.
            scale = count / (self._units[pair[0]].total * self._units[pair[1]].total)
            parts.append((scale, [self._whole(unit) for unit in pair]))
        return parts

    def _whole(self, unit: int) -> int:
        """Axis that counts the kept elements of one unit."""
        return self._axis([0.0] + [float(unit == other) for other in range(len(self._units))])
