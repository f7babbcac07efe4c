"""The error feedback of DPF: what is masked learns all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def feedback(weight: Tensor, kept: Tensor, gain: Tensor | None = None) -> Tensor:
    """``weight`` where it is kept, 0 elsewhere; its gradient is that of the result, as it is (DPF, algorithm 1).

    So a weight that was masked too early comes back.

    Args:
        weight: dense weight.
        kept: boolean, broadcast against the weight.
        gain: if given, the gradient of what is masked is multiplied by it; broadcast against the weight.
    """
    result: Tensor = _Feedback.apply(weight, kept, gain)
    return result


class _Feedback(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, kept: Tensor, gain: Tensor | None) -> Tensor:
        ctx.damped = gain is not None
        if gain is not None:
            ctx.save_for_backward(kept, gain)
        return torch.where(kept, weight, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.damped:
            kept, gain = ctx.saved_tensors
            gradient = torch.where(kept, gradient, gradient * gain)
        return gradient, None, None
