"""How near a structure came to its budget, and why not nearer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..structure import UnitInfo
from ..tracing.search_space import SearchSpace
from .fitter import NEAR


@dataclass(frozen=True)
class BudgetOutcome:
    """The cost of a structure beside its budget; ``str()`` is a sentence.

    Attributes:
        metric: ``'flops'`` or ``'params'``.
        target: share of the supernet's cost that was allowed, in (0, 1].
        achieved: share of the supernet's cost that the structure has.
        reason: why no structure nearer to the target was chosen, and the remedy; empty within 1%.
    """

    metric: str
    target: float
    achieved: float
    reason: str = ''

    @property
    def within(self) -> bool:
        """Whether the structure costs at most the target and at least 99% of it."""
        return (1 - NEAR) * self.target <= self.achieved <= self.target

    def __str__(self) -> str:
        found = f'{self.metric} at {self.achieved:.4f} of the supernet, target {self.target:g}'
        if self.within:
            return f'{found}: within 1% below it'
        if self.achieved > self.target:
            return f'{found}: ABOVE it; {self.reason}'
        below = 100 * (1 - self.achieved / self.target)
        return f'{found}: {below:.1f}% below it, the nearest structure that was found; {self.reason}'


def outcome_of(space: SearchSpace, metric: str, target: float, mask: Tensor, divisors: Tensor) -> BudgetOutcome:
    """Compare a structure with its budget.

    Args:
        metric, target: the budget.
        mask: elements that stay, shape (elements,).
        divisors: step of the kept number per unit, shape (units,).
    """
    mask = mask.detach().cpu().bool()
    achieved = space.cost(metric, mask) / space.cost(metric, torch.ones(space.num_elements))
    outcome = BudgetOutcome(metric, target, achieved)
    if outcome.within:
        return outcome
    if achieved > target:
        return BudgetOutcome(metric, target, achieved, 'it was fixed for another budget: search again for this one')
    return BudgetOutcome(metric, target, achieved, _reason(space, metric, target, mask, divisors.cpu()))


def _reason(space: SearchSpace, metric: str, target: float, mask: Tensor, divisors: Tensor) -> str:
    counts = space.counts(mask).long().tolist()
    ups = [
        min(divisor, unit.total - kept) if unit.kind == 'channels' else min(1, unit.total - kept)
        for unit, kept, divisor in zip(space.units, counts, divisors.tolist(), strict=True)
    ]
    price = {index: _share(space, metric, mask, index, up) for index, up in enumerate(ups) if up}
    single = {index: _share(space, metric, mask, index, 1) for index in price}
    if not price:
        return 'every unit keeps everything'
    cheapest = min(price, key=lambda index: price[index])
    step = f'{_named(space.units[cheapest], ups[cheapest])} would take it to {price[cheapest]:.4f}'
    if price[cheapest] <= target:
        return f'more would fit ({step}): it was fixed by an earlier mmdms or for another budget; search again'
    if min(single.values()) <= target:
        return f'widths go in steps of the divisor, and the cheapest step ({step}) is too large: set a smaller divisor'
    if all(kept <= unit.minimum for kept, unit in zip(counts, space.units, strict=True)):
        return f'every unit is at its minimum, and one step more ({step}) is too large: search a larger target'
    return f'the search space is coarse: its cheapest step up ({step}) is too large; search more layers, or go without'


def _share(space: SearchSpace, metric: str, mask: Tensor, unit: int, more: int) -> float:
    """Share of the supernet's cost with some elements more in a unit."""
    start = space.offsets[unit]
    gone = (~mask[start : start + space.units[unit].total]).nonzero().flatten()[:more]
    grown = mask.clone()
    grown[start + gone] = True
    return space.cost(metric, grown) / space.cost(metric, torch.ones(space.num_elements))


def _named(unit: UnitInfo, count: int) -> str:
    what = {'channels': 'channel', 'heads': 'head', 'depth': 'block'}[unit.kind]
    return f'{count} {what}{"s" if count > 1 else ""} more of {unit.name!r}'
