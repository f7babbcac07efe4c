"""Find the structure that meets a budget after rounding to the divisor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import torch
from torch import Tensor

from ..errors import BudgetError, ConfigError
from ..structure import UnitInfo
from ..tracing.search_space import SearchSpace

SWAP_GAP = 0.002
"""A structure within this share below the budget is close enough."""

PRICED_PAIRS = 20
"""Exchanges of a step between two units that are priced exactly."""

MAX_DIVISOR = 8
"""Widths that are multiples of 8 run at full speed on most hardware."""


def unit_divisors(units: Sequence[UnitInfo], divisor: int | str = 'auto') -> Tensor:
    """Step of the number of kept elements per unit, shape (units,).

    ``'auto'`` takes the largest power of two up to 8 that leaves at least 8
    choices (64 channels: 8, 32: 4, 8: 1), so that tiny networks keep theirs.
    A whole number is used as it is, at most the unit's size. Heads and depth step by 1.

    Raises:
        ConfigError: for anything else.
    """
    if divisor != 'auto' and (not isinstance(divisor, int) or isinstance(divisor, bool) or divisor < 1):
        raise ConfigError(f"divisor must be 'auto' or a whole number from 1, but it is {divisor!r}")
    steps = []
    for unit in units:
        if unit.kind != 'channels':
            step = 1
        elif isinstance(divisor, int):
            step = min(divisor, unit.total)
        else:
            step = next((d for d in (MAX_DIVISOR, 4, 2) if unit.total >= 8 * d), 1)
        steps.append(step)
    return torch.tensor(steps, dtype=torch.long)


def check_budget(space: SearchSpace, metric: str, target: float) -> None:
    """Raise unless ``target`` is a share in (0, 1] that the network can reach.

    Raises:
        ConfigError: for an unknown metric or a share out of range.
        BudgetError: if the smallest structure costs more; names the lowest share.
    """
    if metric not in space.costs:
        raise ConfigError(f'budget metric must be one of {sorted(space.costs)}, but it is {metric!r}')
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target <= 1:
        raise ConfigError(f'budget target must be a share of the supernet in (0, 1], but it is {target!r}')
    lowest = 1.0 - space.prunable_fraction(metric)
    if target < lowest:
        raise BudgetError(
            f'budget target {target:g} of {metric} is out of reach: with everything removable removed '
            f'the network still costs {ceil(lowest * 1e4) / 1e4:.4f} of the supernet; ask for at least that'
        )


def fit_to_budget(
    space: SearchSpace,
    metric: str,
    target: float,
    keep_ratio: Tensor,
    ranks: Tensor,
    divisors: Tensor,
) -> Tensor:
    """Mask of the structure nearest to the searched one that costs at most the budget.

    Widths are scaled by one common factor and rounded to their divisor; what
    is left of the budget then goes, step by step, to the units that rounding
    took most from. Depth stays as searched unless no width could meet the budget.

    Args:
        metric, target: cost at most ``target`` times the cost of the supernet.
        keep_ratio: searched share per unit, shape (units,).
        ranks: normalised rank of every element, shape (elements,); the best ranked stay.
        divisors: step of the kept number per unit, shape (units,).

    Returns:
        Boolean mask, shape (elements,).

    Raises:
        BudgetError: if no structure of the space is cheap enough.
    """
    check_budget(space, metric, target)
    fitter = _Fitter(space, metric, target, keep_ratio.double().cpu(), ranks.double().cpu(), divisors)
    counts = fitter.fit()
    return fitter.mask(counts)


class _Fitter:
    def __init__(
        self, space: SearchSpace, metric: str, target: float, keep_ratio: Tensor, ranks: Tensor, divisors: Tensor
    ) -> None:
        self.table = space.costs[metric].to('cpu')
        self.limit = target * space.cost(metric, torch.ones(space.num_elements))
        self.total = torch.tensor([u.total for u in space.units], dtype=torch.float64)
        self.minimum = torch.tensor([u.minimum for u in space.units], dtype=torch.float64)
        self.depth = torch.tensor([u.kind == 'depth' for u in space.units], dtype=torch.bool)
        self.step = divisors.double()
        self.wanted = (keep_ratio.clamp(0, 1) * self.total).clamp(min=1e-3)
        unit = space.unit_of_element
        # Rank as a number from 0: the element stays while its place is below the count.
        self.place = (ranks * self.total[unit]).floor()
        self.unit = unit
        # A table reads the masks of blocks only.
        self.gated = self.table.gates[self.table.gates >= 0].unique()
        self.gates = torch.zeros(space.num_elements, dtype=torch.float64)

    def mask(self, counts: Tensor) -> Tensor:
        return self.place < counts[self.unit]

    def cost(self, counts: Tensor) -> float:
        self.gates[self.gated] = (self.place[self.gated] < counts[self.unit[self.gated]]).double()
        return float(self.table(counts, self.gates))

    def fit(self) -> Tensor:
        depth = torch.where(self.depth, self._round(self.wanted), self.total)
        scaled = self._largest(lambda s: torch.where(self.depth, depth, self._round(s * self.wanted)))
        if scaled is None:  # the depth that was searched leaves too little for any width
            scaled = self._largest(lambda s: self._round(s * self.wanted))
        if scaled is None:  # every divisor is too coarse: single channels
            self.step = torch.ones_like(self.step)
            scaled = self._largest(lambda s: self._round(s * self.wanted))
        if scaled is None:
            scaled = (0.0, self.minimum)
        return self._swap(self._fill(*scaled))

    def _round(self, counts: Tensor) -> Tensor:
        step = torch.where(self.depth, torch.ones_like(self.step), self.step)
        rounded = (counts / step + 0.5).floor() * step
        rounded = torch.where(rounded + step / 2 > self.total, self.total, rounded)
        return torch.maximum(rounded, torch.where(self.depth, self.minimum, torch.minimum(step, self.total)))

    def _largest(self, counts_at: Callable[[float], Tensor]) -> tuple[float, Tensor] | None:
        """Largest factor whose counts fit, by bisection; None if not even 0 fits."""
        low, high = 0.0, float((self.total / self.wanted).max()) + 1.0
        if self.cost(counts_at(low)) > self.limit:
            return None
        for _ in range(60):
            middle = (low + high) / 2
            if self.cost(counts_at(middle)) <= self.limit:
                low = middle
            else:
                high = middle
        return low, counts_at(low)

    def _fill(self, scale: float, counts: Tensor) -> Tensor:
        """Give what is left of the budget to the units that rounding took most from."""
        counts = counts.clone()
        while True:
            lack = (scale * self.wanted - counts) / self.step
            for unit in torch.argsort(lack, descending=True).tolist():
                trial = None if self.depth[unit] else self._moved(counts, unit, 1)
                if trial is not None and self.cost(trial) <= self.limit:
                    counts = trial
                    break
            else:
                return counts

    def _swap(self, counts: Tensor) -> Tensor:
        """Close a gap that no single step fits in: take a step from one unit and give one to another.

        The changes of cost add up nearly, so pairs are ranked by their sum and
        only the most promising are priced together.
        """
        cost = self.cost(counts)
        while cost < (1 - SWAP_GAP) * self.limit:
            change = {
                (unit, steps): self.cost(moved) - cost
                for unit in range(len(counts))
                for steps in (-1, 1)
                if not self.depth[unit] and (moved := self._moved(counts, unit, steps)) is not None
            }
            pairs = [
                (change[down] + change[up], down[0], up[0])
                for down in change
                for up in change
                if down[1] < 0 < up[1] and down[0] != up[0] and 0 < change[down] + change[up] <= self.limit - cost
            ]
            for _, down_unit, up_unit in sorted(pairs, reverse=True)[:PRICED_PAIRS]:
                lower = self._moved(counts, down_unit, -1)
                trial = None if lower is None else self._moved(lower, up_unit, 1)
                if trial is not None and cost < self.cost(trial) <= self.limit:
                    counts, cost = trial, self.cost(trial)
                    break
            else:
                break
        return counts

    def _moved(self, counts: Tensor, unit: int, steps: int) -> Tensor | None:
        """Counts with one unit moved by some steps of its divisor; None if it cannot move."""
        step = self.step[unit]
        value = counts[unit] + steps * step
        if steps < 0 and counts[unit] == self.total[unit]:  # the whole unit need not be a multiple
            value = (torch.ceil(self.total[unit] / step) - 1) * step
        value = value.clamp(max=self.total[unit])
        if value == counts[unit] or value < torch.minimum(step, self.total[unit]):
            return None
        moved = counts.clone()
        moved[unit] = value
        return moved
