"""Elementwise operations: operands that meet at one position are one element."""

from __future__ import annotations

import torch
from torch import Tensor

from ..context import RuleContext
from ..labels import canonical, compact, no_labels, varying_dims
from ..op_sets import Call
from .heads import per_head
from .table import RULES, rule

aten = torch.ops.aten


def pointwise(t: RuleContext, call: Call) -> Tensor:
    """Broadcast and unify the labels of all operands.

    An operand without labels is harmless where it broadcasts along the labelled
    dimensions (a spatial attention map). Where it has a size of its own there,
    that size is written somewhere out of reach, and the elements freeze.
    """
    shape = call.out.shape
    operands = [x for x in call.tensors if x.numel() > 0]
    if len(operands) == 1 and t.parameters.owner(operands[0]) is None:
        return t.labels(operands[0]).expand(shape)
    found = [t.elementwise_labels(operand) for operand in operands]
    for position, own in enumerate(found):
        others = [other for i, other in enumerate(found) if i != position]
        crosses = t.is_weight(operands[position]) and _crosses(own, others, shape)
        if crosses or _spreads(own, others, shape):
            t.freeze(own, f'is spread over other channels by {call.func}')
            found[position] = no_labels(own.shape)
    merged = no_labels(shape)
    for own in found:
        merged = _merge(t, merged, own.expand(shape))
    # A second look, now that all labels of the result are known: sizes without labels.
    dims = varying_dims(merged)
    for own in found:
        offset = len(shape) - own.dim()
        if any(dim >= offset and own.size(dim - offset) > 1 for dim in dims):
            unlabelled = (compact(own.expand(shape)) == 0) & (compact(merged) > 0)
            if bool(unlabelled.any()):
                reason = f'meets a tensor of fixed size in {call.func}'
                t.freeze(torch.where(unlabelled, compact(merged), 0), reason)
    return merged


def _spreads(own: Tensor, others: list[Tensor], shape: torch.Size) -> bool:
    """Whether an operand of one element (a spatial attention map) meets many elements of the others."""
    if compact(own).numel() != 1 or not bool(compact(own).any()):
        return False
    offset = len(shape) - own.dim()
    for other in others:
        for dim in varying_dims(other.expand(shape)):
            if dim < offset or own.size(dim - offset) == 1:
                return True
    return False


def _crosses(own: Tensor, others: list[Tensor], shape: torch.Size) -> bool:
    """Whether the elements of an operand lie along other dimensions than those of the others (a bias per position)."""
    dims = set(varying_dims(own.expand(shape)))
    met = {dim for other in others for dim in varying_dims(other.expand(shape))}
    return bool(dims) and bool(met) and not dims & met


def _merge(t: RuleContext, a: Tensor, b: Tensor) -> Tensor:
    for part, whole in ((a, b), (b, a)):
        factor = _factor_met(t, part, whole)
        if factor is not None:
            t.store.unify(part, factor)
            return whole
    t.store.unify(a, b)
    a_small, b_small = torch.broadcast_tensors(compact(a), compact(b))
    return torch.where(a_small > 0, a_small, b_small).expand(a.shape)


def _factor_met(t: RuleContext, part: Tensor, whole: Tensor) -> Tensor | None:
    """Of products of heads and width, the one that an operand meets (a scale per head, a rotation per width)."""
    dims = set(varying_dims(whole))
    if len(dims) < 2 or dims <= set(varying_dims(part)) or not bool(compact(part).any()):
        return None
    factors = [factor.expand(whole.shape) for factor in t.store.factors_of(compact(whole)) or ()]
    met = [factor for factor in factors if set(varying_dims(canonical(factor))) <= set(varying_dims(part))]
    return met[0] if len(met) == 1 else None


RULES['pointwise'] = pointwise
# Pointwise, though PyTorch does not tag them so.
rule(
    aten.hardswish, aten.hardswish_, aten.leaky_relu, aten.leaky_relu_, aten._prelu_kernel,
    aten.masked_fill, aten.masked_fill_,
)(pointwise)  # fmt: skip


@rule(aten.zeros_like, aten.ones_like, aten.full_like)
def constant_like(t: RuleContext, call: Call) -> Tensor:
    """A constant of the size of another tensor: each position goes with that of the other."""
    return t.elementwise_labels(call.args[0])


@rule(aten.clone, aten._to_copy)
def copied(t: RuleContext, call: Call) -> Tensor:
    """The same values in memory of their own: a parameter in another type is used elementwise like itself."""
    x = call.args[0]
    return t.labels(x) if t.is_buffer(x) else t.elementwise_labels(x)


@rule(aten.contiguous, aten.detach, aten.alias, aten.lift_fresh, aten.bernoulli_)
def same(t: RuleContext, call: Call) -> Tensor:
    """The same values, in a tensor of their own or not."""
    return t.labels(call.args[0])


@rule(aten.as_strided_)
def restride(t: RuleContext, call: Call) -> Tensor:
    """Global pooling rewrites the strides of dimensions of size 1 only."""
    labels = t.labels(call.args[0])
    plain = torch.empty(call.out.shape, device='meta').stride()
    kept = all(size == 1 or a == b for size, a, b in zip(call.out.shape, call.out.stride(), plain, strict=True))
    if kept and call.out.shape == labels.shape:
        return labels
    t.freeze(labels, f'is rearranged by {call.func}')
    return no_labels(call.out.shape)


@rule(aten.native_dropout)
def dropout(t: RuleContext, call: Call) -> list[Tensor]:
    """Dropout in training: values and mask."""
    labels = t.labels(call.args[0])
    return [labels, labels]


@rule(aten.copy_)
def copy_(t: RuleContext, call: Call) -> Tensor:
    """Values of the second operand, broadcast into the first."""
    return t.elementwise_labels(call.args[1]).expand(call.out.shape)


@rule(aten.fill_, aten.zero_, aten.normal_, aten.uniform_)
def fill_(t: RuleContext, call: Call) -> Tensor:
    """A constant written over what was there carries no element."""
    labels = t.labels(call.args[0])
    t.freeze(labels, f'is overwritten by {call.func}')
    return no_labels(call.out.shape)


@rule(
    aten.empty, aten.zeros, aten.ones, aten.full, aten.arange, aten.linspace, aten.rand, aten.randn,
    aten.scalar_tensor, aten.empty_like, aten.rand_like, aten.randn_like,
    aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.empty_strided, aten.new_empty_strided,
)  # fmt: skip
def constant(t: RuleContext, call: Call) -> Tensor | None:
    """A new tensor that carries no element (its size is fixed until an operation says otherwise).

    In a module of attention heads a constant may be as large as they are many, by an attribute that follows them.
    """
    return per_head(t, call.out.shape)


@rule(aten._softmax, aten._log_softmax, aten._safe_softmax)
def softmax(t: RuleContext, call: Call) -> Tensor:
    """Softmax over tokens keeps channels apart; over channels it mixes them."""
    x, dim = call.args[:2]
    labels = t.labels(x)
    if dim % x.dim() in varying_dims(labels):
        t.freeze(labels, f'is normalised by {call.func}')
        return no_labels(call.out.shape)
    return labels
