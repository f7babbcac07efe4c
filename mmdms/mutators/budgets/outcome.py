"""How near a structure came to its budget, and why not nearer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...space.outcome import BudgetOutcome
from ...space.search_space import SearchSpace
from ...space.structure import UnitInfo


def outcome_of(
    space: SearchSpace, metric: str, target: float, mask: Tensor, divisors: Tensor, minimum: Tensor | None = None
) -> BudgetOutcome:
    """Compare a structure with its budget.

    Args:
        metric, target: the budget.
        mask: elements that stay, shape (elements,).
        divisors: step of the kept number per unit, shape (units,).
        minimum: fewest elements per unit, shape (units,); those of their kinds if None.
    """
    mask = mask.detach().cpu().bool()
    achieved = space.cost(metric, mask) / space.cost(metric, torch.ones(space.num_elements))
    outcome = BudgetOutcome(metric, target, achieved)
    if outcome.within:
        return outcome
    if achieved > target:
        return BudgetOutcome(metric, target, achieved, 'it was fixed for another budget: search again for this one')
    fewest = [unit.minimum for unit in space.units] if minimum is None else minimum.tolist()
    return BudgetOutcome(metric, target, achieved, _reason(space, metric, target, mask, divisors.cpu(), fewest))


def _reason(
    space: SearchSpace, metric: str, target: float, mask: Tensor, divisors: Tensor, fewest: Sequence[int]
) -> str:
    counts = space.counts(mask).long().tolist()
    share = space.cost(metric, mask) / space.cost(metric, torch.ones(space.num_elements))
    price, single = {}, []  # shares with one step more; changes by a single channel, up or down
    for index, (unit, kept, divisor) in enumerate(zip(space.units, counts, divisors.tolist(), strict=True)):
        step = min(divisor, unit.total - kept)
        if step:
            price[index] = step, _share(space, metric, mask, index, step)
        if divisor > 1:
            single.append(abs(_share(space, metric, mask, index, 1 if step else -1) - share))
    if not price:
        return 'every unit keeps everything'
    cheapest = min(price, key=lambda index: price[index][1])
    count, reached = price[cheapest]
    step_up = f'its cheapest step up, {_named(space.units[cheapest], count)}, would take it to {reached:.4f}'
    if reached <= target:
        return f'more would fit ({step_up}): it was fixed by an earlier mmdms or for another budget; search again'
    if any(0 < change <= target - share for change in single):
        return f'the divisor is too coarse ({step_up}): set a smaller one'
    if all(kept <= least for kept, least in zip(counts, fewest, strict=True)):
        return f'every unit is at its minimum ({step_up}): ask for a larger target'
    return (
        f'the search space is too coarse ({step_up}): leave less of the network out of the search, or take it as it is'
    )


def _share(space: SearchSpace, metric: str, mask: Tensor, unit: int, more: int) -> float:
    """Share of the supernet's cost with some elements more (or fewer, if negative) in a unit."""
    part = slice(space.offsets[unit], space.offsets[unit] + space.units[unit].total)
    changed = mask.clone()
    places = (mask[part] if more < 0 else ~mask[part]).nonzero().flatten()[: abs(more)]
    changed[part.start + places] = more > 0
    return space.cost(metric, changed) / space.cost(metric, torch.ones(space.num_elements))


def _named(unit: UnitInfo, count: int) -> str:
    return f'{unit.mutable.counted(count)} of {unit.name!r}'
