"""Differentiable top-k over many units at once.

All functions take the elements of all units as one vector: ``importance``,
ranks and masks have shape (elements,), ``unit`` (elements,) tells which unit an
element belongs to, and per-unit vectors have shape (units,).
"""

from __future__ import annotations

import torch
from torch import Tensor


def normalized_ranks(importance: Tensor, unit: Tensor, totals: Tensor) -> Tensor:
    """Share of its unit's elements that outrank each element, in (0, 1).

    The k-th most important of N elements (from 0) has rank ``(k + 0.5) / N``,
    so ranks are uniform whatever the distribution of importance, and a keep
    ratio ``a`` keeps ``round(a * N)`` elements (DMS, section 3.1, "importance
    normalization"; the half step centres the mask on its count). Elements of
    equal importance are ranked by index. One stable sort: O(E log E).

    Args:
        importance: shape (elements,), finite.
        unit: unit of every element, shape (elements,), ascending from 0.
        totals: elements per unit, shape (units,), positive.

    Returns:
        Ranks, shape (elements,), without gradient, of the type of ``importance``
        if it is float64 and float32 otherwise.
    """
    dtype = torch.float64 if importance.dtype == torch.float64 else torch.float32
    order = _order(importance.detach(), unit)
    first = torch.cumsum(totals, 0) - totals
    place = torch.arange(unit.numel(), device=unit.device) - first[unit]
    ranks = torch.empty(unit.numel(), dtype=dtype, device=unit.device)
    ranks[order] = (place.to(dtype) + 0.5) / totals[unit].to(dtype)
    return ranks


def _order(importance: Tensor, unit: Tensor) -> Tensor:
    """Elements by unit, in it by falling importance, and then by index; all of shape (elements,)."""
    if importance.dtype == torch.float64:
        order = torch.argsort(importance, descending=True, stable=True)
        return order[torch.argsort(unit[order], stable=True)]
    # One sort of integers: the bits of a float, those of negative numbers turned round, are in its order.
    bits = (importance.float() + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    falling = -(bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    return torch.argsort((unit.long() << 33) + falling, stable=True)


def soft_mask(keep_ratio: Tensor, ranks: Tensor, unit: Tensor, totals: Tensor, sharpness: Tensor) -> Tensor:
    """Soft top-k mask ``sigmoid(lambda * N * (a - r))`` (DMS, equation for the soft mask).

    Its sum over a unit is close to ``a * N``, and its gradient with respect to
    ``a`` is exact.

    Args:
        keep_ratio: ``a`` in [0, 1] per unit, shape (units,).
        ranks: shape (elements,), see :func:`normalized_ranks`.
        unit, totals: see :func:`normalized_ranks`.
        sharpness: ``lambda`` per unit, positive, shape (units,).

    Returns:
        Values in (0, 1), shape (elements,).
    """
    slope = (sharpness * totals)[unit]
    return torch.sigmoid(slope * (keep_ratio[unit] - ranks))


def hard_mask(keep_ratio: Tensor, ranks: Tensor, unit: Tensor, minimum: Tensor, totals: Tensor) -> Tensor:
    """Elements that stay: ``m >= 0.5``, that is ``r <= a``, and never fewer than ``minimum``.

    Args:
        keep_ratio, ranks, unit, totals: see :func:`soft_mask`.
        minimum: fewest elements that stay per unit, shape (units,).

    Returns:
        Boolean, shape (elements,).
    """
    floor = minimum.to(ranks.dtype) / totals.to(ranks.dtype)
    return (ranks <= keep_ratio[unit]) | (ranks < floor[unit])


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The values of ``hard`` with the gradient of ``soft``, shape (elements,)."""
    return hard.to(soft.dtype) + soft - soft.detach()
