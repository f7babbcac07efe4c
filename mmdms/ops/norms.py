"""Layer norm and group norm over the channels that stay, in few passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def masked_layer_norm(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the last dimension of ``x`` (..., C) under a mask (C,), in float32 or wider.

    With ``p = mask / sum(mask)``, the mean is ``sum(p * x)`` and the variance ``sum(p * (x - mean)^2)``. It cannot be
    differentiated twice.
    """
    dtype = torch.promote_types(x.dtype, weight.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    rows = x.reshape(-1, x.size(-1)).to(wide)
    shift = None if bias is None else bias.to(wide)
    normed: Tensor = _MaskedLayerNorm.apply(rows, mask.to(wide), weight.to(wide), shift, eps)
    return normed.view(x.shape).to(dtype)


def masked_group_norm(x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Group norm over one group of ``x`` (B, C, ...) under a mask (C,)."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    share = (mask / mask.sum()).to(x.dtype).view(shape)
    rest = tuple(range(2, x.dim()))
    centred = x - ((x.mean(rest, keepdim=True) if rest else x) * share).sum(1, keepdim=True)
    square = centred.square()
    variance = ((square.mean(rest, keepdim=True) if rest else square) * share).sum(1, keepdim=True)
    normed = centred * torch.rsqrt(variance + eps)
    normed = normed if weight is None else normed * weight.view(shape)
    return normed if bias is None else normed + bias.view(shape)


class _MaskedLayerNorm(torch.autograd.Function):
    """Of rows (T, C), under a mask (C,)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        total = mask.sum()
        share = mask / total
        normed = rows - (rows @ share)[:, None]
        scale = torch.rsqrt(normed.square() @ share + eps)[:, None]
        normed *= scale
        ctx.save_for_backward(normed, scale, share, weight, total)
        return normed * weight if bias is None else torch.addcmul(bias, normed, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # n = (x - sum(p x)) s, s = (sum(p (x - mean)^2) + eps)^-1/2, out = n w + b. With a = sum(g w) and
        # b = sum(g w n) of each row: dL/dx = s (g w - p (a + b n)) and dL/dp = -sum(a n + b n^2 / 2) over rows, but
        # for what is the same for all channels, which never counts: dL/dm = (dL/dp - sum(p dL/dp)) / sum(m).
        normed, scale, share, weight, total = ctx.saved_tensors
        need = ctx.needs_input_grad
        product = gradient * normed
        of_weight = product.sum(0) if need[2] else None
        of_bias = gradient.sum(0) if need[3] else None
        sums, moments = gradient @ weight, product @ weight
        of_mask = of_rows = None
        if need[1]:
            of_share = torch.add(sums @ normed, moments @ normed.square(), alpha=0.5)
            of_mask = (share.dot(of_share) - of_share) / total
        if need[0]:
            of_rows = torch.addcmul(sums[:, None], normed, moments[:, None]).mul_(-share)
            of_rows.addcmul_(gradient, weight).mul_(scale)
        return of_rows, of_mask, of_weight, of_bias, None
