"""Find the structure that meets a budget after rounding to the divisor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import torch
from torch import Tensor

from ...errors import BudgetError, ConfigError
from ...mutables import MutableUnit, build_mutables
from ...space.search_space import SearchSpace
from ...space.structure import UnitInfo
from .fitter import Fitter


def unit_divisors(
    units: Sequence[UnitInfo], divisor: int | str = 'auto', mutables: Mapping[str, MutableUnit] | None = None
) -> Tensor:
    """Step of the number of kept elements per unit, shape (units,): see :meth:`MutableUnit.step` of its kind.

    Args:
        units: of a search space.
        divisor: of channels that have none of their own: a whole number from 1, or ``'auto'``.
        mutables: every kind with its options; the defaults if None.

    Raises:
        ConfigError: for anything else.
    """
    if divisor != 'auto' and (not isinstance(divisor, int) or isinstance(divisor, bool) or divisor < 1):
        raise ConfigError(f"divisor must be 'auto' or a whole number from 1, but it is {divisor!r}")
    mutables = build_mutables(None) if mutables is None else mutables
    return torch.tensor([mutables[unit.kind].step(unit.total, divisor) for unit in units], dtype=torch.long)


def check_budget(space: SearchSpace, metric: str, target: float, minimum: Tensor | None = None) -> None:
    """Raise unless ``target`` is a share in (0, 1] that the network can reach.

    Args:
        minimum: fewest elements per unit, shape (units,); those of their kinds if None.

    Raises:
        ConfigError: for an unknown metric or a share out of range.
        BudgetError: if the smallest structure costs more; names the lowest share.
    """
    if metric not in space.costs:
        raise ConfigError(f'budget metric must be one of {sorted(space.costs)}, but it is {metric!r}')
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target <= 1:
        raise ConfigError(f'budget target must be a share of the supernet in (0, 1], but it is {target!r}')
    lowest = 1.0 - space.prunable_fraction(metric, None if minimum is None else minimum.tolist())
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
    minimum: Tensor | None = None,
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
        minimum: fewest elements per unit, shape (units,); those of their kinds if None.

    Returns:
        Boolean mask, shape (elements,).

    Raises:
        BudgetError: if no structure of the space is cheap enough.
    """
    check_budget(space, metric, target, minimum)
    fitter = Fitter(space, metric, target, keep_ratio, ranks, divisors, importance, whole, minimum)
    return fitter.mask(fitter.fit())
