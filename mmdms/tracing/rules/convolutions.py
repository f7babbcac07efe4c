"""Convolutions of any number of dimensions."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..context import RuleContext
from ..labels import no_labels
from ..layer_weights import WeightOfLayer, weight_of
from ..op_sets import Call
from .layers import expand_along, heads_in_batch, per_channel, width_of_heads
from .table import rule

aten = torch.ops.aten


@rule(aten.convolution)
def convolution(t: RuleContext, call: Call) -> Tensor:
    """Dense, grouped, depthwise and transposed convolutions of any number of dimensions."""
    x, tensor, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    out_channels = call.out.size(1)
    positions = x.size(0) * (prod(x.shape[2:]) if transposed else prod(call.out.shape[2:]))
    kernel = positions * prod(tensor.shape[2:])
    weight = weight_of(t, tensor)
    if weight is None:
        t.cost(kernel * tensor.size(0) * tensor.size(1))
        return _unsupported(t, call, 'has a convolution weight that is computed from activations')

    heads = heads_in_batch(t, x)
    if heads is not None and not transposed and out_channels == x.size(1) and weight.name is not None:
        width = width_of_heads(t, heads)
        if bool((width.view(groups, -1) == width.view(groups, -1)[:, :1]).all()):
            return _groups_per_head(t, call, weight, heads, width)
    incoming = t.store.along(t.labels(x), 1)
    if groups > 1 and x.size(1) == groups:
        outgoing = incoming.repeat_interleave(out_channels // groups)  # depthwise, with any multiplier
        weight.follows(0, incoming if transposed else outgoing, 'through')
        t.cost(kernel, outgoing)
    elif groups > 1 and transposed:
        outgoing = _grouped_transposed(t, weight, incoming, tensor.size(1), groups, kernel)
    else:
        in_dim, out_dim = (0, 1) if transposed else (1, 0)
        if groups > 1:
            incoming = _alike_in_groups(t, incoming, groups)
        known = weight.known(out_dim)
        outgoing = t.store.fresh(out_channels) if known is None else known
        if groups > 1:
            t.store.even(outgoing.view(groups, -1))
        weight.follows(in_dim, incoming, 'in')
        weight.follows(out_dim, outgoing, 'out')
        t.cost(kernel, incoming, outgoing)
    per_channel(t, bias, outgoing)
    return expand_along(outgoing, 1, call.out.shape)


def _grouped_transposed(
    t: RuleContext, weight: WeightOfLayer, incoming: Tensor, per_group: int, groups: int, kernel: int
) -> Tensor:
    """Labels (out,) of a grouped transposed convolution, whose weight is (in, out / groups, ...).

    Groups lose equally many channels in; channel j out of every group is one element.
    """
    table = incoming.view(groups, -1)
    t.store.even(table)
    if bool((table == 0).any()) and bool((table > 0).any()):
        t.freeze(incoming, 'enters a grouped convolution beside channels of fixed number')
    known = weight.known(1)
    outgoing = t.store.fresh(per_group) if known is None else known
    weight.follows(0, incoming, 'in')
    weight.follows(1, outgoing, 'out')
    t.cost(kernel, incoming, outgoing)
    return outgoing.repeat(groups)


def _groups_per_head(t: RuleContext, call: Call, weight: WeightOfLayer, heads: Tensor, width: Tensor) -> Tensor:
    """A convolution that all heads share, with one element in every group: groups follow the width of a head."""
    tensor, bias = call.args[1:3]
    weight.follows(0, width, 'through')
    per_channel(t, bias, width)
    per_group = tensor.size(1)
    t.cost(prod(call.out.shape[2:]) * prod(tensor.shape[1:]) * per_group, heads[:, ::per_group].flatten())
    return heads.reshape(*heads.shape, *[1] * (call.out.dim() - 2)).expand(call.out.shape)


def _alike_in_groups(t: RuleContext, incoming: Tensor, groups: int) -> Tensor:
    """Groups must shrink alike: channel j of every group is one element. Shape (channels / groups,)."""
    table = incoming.view(groups, -1)
    t.store.unify(table[:1], table)
    partly_fixed = (table == 0).any(0) & (table > 0).any(0)
    if bool(partly_fixed.any()):
        t.freeze(table[:, partly_fixed], 'enters a grouped convolution beside channels of fixed number')
    return table.amax(0)


def _unsupported(t: RuleContext, call: Call, reason: str) -> Tensor:
    for tensor in call.tensors:
        t.freeze(t.labels(tensor), f'{t.module or "the network"} {reason}')
        t.opaque(tensor, reason)
    return no_labels(call.out.shape)
