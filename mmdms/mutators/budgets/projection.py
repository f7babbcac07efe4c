"""Bring keep ratios onto a budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NEWTON_STEPS = 8
TOLERANCE = 1e-4


def project_to_budget(
    keep_ratio: Tensor, log_cost: Callable[[Tensor], Tensor], log_target: float, floor: Tensor, movable: Tensor
) -> Tensor:
    """Shrink or grow keep ratios until ``log_cost(a) = log_target``, moving each by its share of the cost.

    The direction is ``a * d log(cost) / d a``: the share of the cost that hangs
    on a unit. A budget loss ``mu * log(cost / target)`` pulls the same way; here
    its multiplier ``mu`` is solved for in every step (Newton's method), so the
    cost neither lags behind the target nor overshoots it.

    Args:
        keep_ratio: ``a``, shape (units,).
        log_cost: differentiable logarithm of the relative cost of keep ratios.
        log_target: logarithm of the target; 0 is the whole supernet.
        floor: smallest keep ratio per unit, shape (units,).
        movable: 1 for units that may move and 0 for others, shape (units,).

    Returns:
        Keep ratios in [floor, 1]; on the budget to within 1e-4, unless the
        bounds of the units leave none there.
    """
    for _ in range(NEWTON_STEPS):
        with torch.enable_grad():
            probe = keep_ratio.detach().clone().requires_grad_()
            value = log_cost(probe)
            (slope,) = torch.autograd.grad(value, probe)
        excess = value.detach() - log_target
        missing = -float(excess)
        direction = keep_ratio * slope.to(keep_ratio.dtype) * movable
        # A unit at its bound cannot follow: the others take its part.
        stuck = torch.where(excess > 0, keep_ratio <= floor, keep_ratio >= 1)
        direction = direction.masked_fill(stuck, 0.0)
        if missing > TOLERANCE and not bool(direction.any()):
            # All that have a share of the cost are full: units at 0 (depths without a block) come back.
            direction = (slope.to(keep_ratio.dtype) * movable).masked_fill(stuck, 0.0)
        step = (slope.to(keep_ratio.dtype) * direction).sum().clamp(min=1e-12)
        keep_ratio = torch.maximum(keep_ratio - excess.to(keep_ratio.dtype) / step * direction, floor).clamp(max=1.0)
        if abs(missing) < TOLERANCE:
            break
    return keep_ratio
