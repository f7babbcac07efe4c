"""The cost of a structure as a table: three tensor operations for the whole budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..structure import UnitInfo


class CostTable:
    """Cost as a sum of ``coefficient * count_a * count_b * gate`` over rows.

    A count is ``fixed + sum_u per_unit[u] * counts[u]``: positions that always
    stay, and for every unit the number of positions that each element holds. A
    gate is the mask of the block that encloses the operation, or 1.

    Args:
        fixed: positions that always stay, shape (axes,).
        per_unit: positions per kept element, shape (axes, units).
        coefficients, rows, gates: per row, shapes (rows,), (rows, 2), (rows,);
            ``rows`` indexes axes, ``gates`` elements (-1: none).
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
        return (self.coefficients * axis[self.rows[:, 0]] * axis[self.rows[:, 1]] * gated).sum()

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
        self._rows: dict[tuple[int, int, int], float] = {}

    def add(self, coefficient: float, axes: Sequence[Tensor], gate: int | None) -> None:
        """Add ``coefficient * prod(count(axis))``, at most two axes, each a vector of elements (-1: fixed)."""
        if len(axes) > 2:
            raise ValueError(f'a cost row has at most 2 axes, got {len(axes)}')
        indices = sorted([self._axis(axis) for axis in axes] + [self._one()] * (2 - len(axes)))
        key = (indices[0], indices[1], -1 if gate is None else gate)
        self._rows[key] = self._rows.get(key, 0.0) + coefficient

    def build(self) -> CostTable:
        """The table, in float64."""
        if not self._axes:
            self._one()
        table = torch.tensor(list(self._axes), dtype=torch.float64)
        keys = torch.tensor(list(self._rows), dtype=torch.long).view(-1, 3)
        coefficients = torch.tensor(list(self._rows.values()), dtype=torch.float64)
        return CostTable(table[:, 0].clone(), table[:, 1:].clone(), coefficients, keys[:, :2], keys[:, 2])

    def _one(self) -> int:
        return self._axes.setdefault((1.0, *[0.0] * len(self._units)), len(self._axes))

    def _axis(self, elements: Tensor) -> int:
        positions = torch.bincount(self._unit_of[elements[elements >= 0]], minlength=len(self._units))
        per_unit = [float(n) / unit.total for n, unit in zip(positions.tolist(), self._units, strict=True)]
        return self._axes.setdefault((float((elements < 0).sum()), *per_unit), len(self._axes))
