"""Taylor importance of elements."""

from __future__ import annotations

from torch import Tensor


def taylor_importance(mask: Tensor, grad: Tensor) -> Tensor:
    """``(m * dL/dm)^2``: the squared first-order change of the loss when an element goes.

    DMS, section 3.2 (after Molchanov et al., "Importance Estimation for Neural
    Network Pruning", CVPR 2019, equation 8).

    Args:
        mask: ``m``, shape (elements,).
        grad: gradient of the task loss with respect to ``m``, shape (elements,).
    """
    return (mask * grad).square()


def moving_average(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """``decay * average + (1 - decay) * value``, elementwise; ``decay`` in [0, 1)."""
    return average * decay + value * (1.0 - decay)
