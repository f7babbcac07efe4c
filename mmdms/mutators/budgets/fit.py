"""Find the structure that meets a budget after rounding to the divisor."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from ...errors import BudgetError, ConfigError
from ...space.search_space import SearchSpace
from ...space.structure import UnitInfo
from .fitter import Fitter

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
    importance: Tensor | None = None,
    whole: Tensor | None = None,
) -> Tensor:
    """Mask of a structure near the searched one that costs at most the budget, and within 1% of it where there is one.

    Widths are scaled by one common factor and rounded to their divisor; what
    is left of the budget then goes, step by step, to the units that rounding
    took most from. Depth stays as searched if it comes within 1% of the target:
    otherwise blocks return, those with the largest gates first, or go, and
    widths are fitted again. Where nothing comes within 1%, the mask is that of
    the nearest structure found, to which no step and no block can be added.

    Args:
        metric, target: cost at most ``target`` times the cost of the supernet.
        keep_ratio: searched share per unit, shape (units,).
        ranks: normalised rank of every element, shape (elements,); the best ranked stay.
        divisors: step of the kept number per unit, shape (units,).
        importance: of every element, comparable between units, shape (elements,): blocks with equal
            gates return in its order; in that of their units if None.
        whole: units that keep everything, boolean, shape (units,); none if None.

    Returns:
        Boolean mask, shape (elements,).

    Raises:
        BudgetError: if no structure of the space is cheap enough.
    """
    check_budget(space, metric, target)
    fitter = Fitter(space, metric, target, keep_ratio, ranks, divisors, importance, whole)
    return fitter.mask(fitter.fit())
