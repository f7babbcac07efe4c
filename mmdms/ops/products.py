"""Products with masks whose gradients cost few passes over memory.

PyTorch's own gradients of a broadcast product are right, but sum along the last dimensions of a whole temporary; in a
search that happens for every weight, in every step. None of these functions can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def mask_product(tensor: Tensor, mask: Tensor, dim: int) -> Tensor:
    """``tensor`` times ``mask`` (tensor.size(dim),) along a dimension.

    The gradient of the mask is summed in float32 or wider, in an order that does not change.
    """
    inside = prod(tensor.shape[dim + 1 :])
    # Where rows are whole, or little is lost by a temporary, PyTorch's own gradient is as good, and quicker to call.
    if tensor.dtype == mask.dtype and tensor.dtype in WIDE:
        if inside == 1:
            return tensor * mask.view([-1 if d == dim else 1 for d in range(tensor.dim())])
        if (
            dim > 0
            and inside <= SHORT
            and tensor.is_contiguous()
            and (tensor.numel() <= SMALL or not mask.requires_grad)
        ):
            row = mask.view(-1, 1).expand(-1, inside).reshape(-1)
            return (tensor.view(-1, len(row)) * row).view(tensor.shape)
    product: Tensor = _MaskProduct.apply(tensor, mask, dim)
    return product


WIDE = (torch.float32, torch.float64)


class _MaskProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, mask: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.dtype = dim, mask.dtype
        row = _row(mask.to(tensor.dtype), tensor, dim)
        ctx.save_for_backward(tensor, row)
        return _times(tensor, row, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        tensor, row = ctx.saved_tensors
        of_mask = buffer = None
        if ctx.needs_input_grad[1]:
            of_mask, buffer = _inner(gradient, tensor, ctx.dim)
            of_mask = of_mask.to(ctx.dtype)
        of_tensor = _times(gradient, row, ctx.dim, buffer) if ctx.needs_input_grad[0] else None
        return of_tensor, of_mask, None


def _row(mask: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """A mask along ``dim`` as it is multiplied: of all dimensions from ``dim`` on, where those behind it are short."""
    inside = prod(tensor.shape[dim + 1 :])
    # A mask that changes every 9 numbers (a 3x3 kernel) cannot be read in vectors; one as long as a row can.
    return mask.repeat_interleave(inside) if dim > 0 and 1 < inside <= SHORT and tensor.is_contiguous() else mask


def _times(tensor: Tensor, row: Tensor, dim: int, buffer: Tensor | None = None) -> Tensor:
    """``tensor`` times a mask of :func:`_row`; ``buffer``, of its type and size, may take the result."""
    if buffer is not None and (buffer.dtype != tensor.dtype or not tensor.is_contiguous()):
        buffer = None
    if len(row) == tensor.size(dim):
        view = row.view([-1 if d == dim else 1 for d in range(tensor.dim())])
        return tensor * view if buffer is None else torch.mul(tensor, view, out=buffer.view(tensor.shape))
    rows = tensor.reshape(-1, len(row))
    return torch.mul(rows, row, out=None if buffer is None else buffer.view(rows.shape)).view(tensor.shape)


def inner(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Sum of ``a * b`` over all dimensions but ``dim``, shape (a.size(dim),), in float32 or wider."""
    return _inner(a, b, dim)[0]


def _inner(a: Tensor, b: Tensor, dim: int) -> tuple[Tensor, Tensor | None]:
    """That, and the memory of the products, which is free again, if it is contiguous."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    product = a.to(dtype) * b.to(dtype)
    size, inside = a.size(dim), prod(a.shape[dim + 1 :])
    if not product.is_contiguous():
        return product.sum([d for d in range(a.dim()) if d != dim]), None
    if inside > SHORT:
        return product.sum([d for d in range(a.dim()) if d != dim]), product
    # Whole rows first: sums along a short last dimension are slow.
    row = product.view(-1, size * inside).sum(0)
    return (row.view(size, inside).sum(1) if inside > 1 else row), product


SHORT = 64
"""Up to so many numbers, a last dimension is short."""

SMALL = 2**18
"""Up to so many numbers, to call Python in a backward pass costs more than a temporary."""


def gather_masks(values: Tensor, index: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The masks of many places at once, of the given sizes, in the order of ``index``.

    Args:
        values: mask of every element, shape (elements,).
        index: element of every position of all places together; that after the last is a mask of 1.
        sizes: positions of each place; they add up to the length of ``index``.
    """
    parts: tuple[Tensor, ...] = _Gather.apply(values, index, sizes)
    return parts


class _Gather(torch.autograd.Function):
    """One node for all places, which keeps nothing that its first backward pass would free.

    Activation checkpointing runs several backward passes through it in one step.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.index, ctx.sizes, ctx.shape = index, sizes, values.shape
        return torch.cat([values, values.new_ones(1)])[index].split(sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        some = next((g for g in gradients if g is not None), None)
        if some is None:
            return None, None, None
        parts = [some.new_zeros(n) if g is None else g for g, n in zip(gradients, ctx.sizes, strict=True)]
        total = some.new_zeros(ctx.shape[0] + 1)
        if some.is_cuda:  # there index_add adds in the order of chance, and this sorts
            total = total.index_put((ctx.index,), torch.cat(parts), accumulate=True)
        else:
            total = total.index_add(0, ctx.index, torch.cat(parts))
        return total[:-1], None, None


def blend(given: Tensor, result: Tensor, gate: Tensor) -> Tensor:
    """``given + gate * (result - given)`` of tensors of one shape and type, and a gate of no dimension."""
    blended: Tensor = _Blend.apply(given, result, gate)
    return blended


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, result: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(given, result, gate)
        return torch.lerp(given, result, gate.to(result.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        given, result, gate = ctx.saved_tensors
        share = gate.to(gradient.dtype)
        of_given = gradient * (1 - share) if ctx.needs_input_grad[0] else None
        of_result = gradient * share if ctx.needs_input_grad[1] else None
        of_gate = None
        if ctx.needs_input_grad[2]:
            of_gate = (_dot(gradient, result) - _dot(gradient, given)).to(gate.dtype)
        return of_given, of_result, of_gate


def _dot(a: Tensor, b: Tensor) -> Tensor:
    dtype = torch.promote_types(a.dtype, torch.float32)
    if a.dtype == dtype and a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    return (a.to(dtype) * b.to(dtype)).sum()
