"""Convolution, linear layers, batch norm: where parameters meet channel elements.

Costs are counted as mmengine's ``get_model_complexity_info`` counts them:
multiply-accumulates for convolutions and linear layers, 2 per element for an
affine batch norm in evaluation.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..labels import compact, no_labels
from ..tracer import Call, Tracer, rule

aten = torch.ops.aten


def expand_along(labels: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Labels of one dimension, broadcast to a whole tensor of ``shape``."""
    view = [1] * len(shape)
    view[dim] = -1
    return labels.view(view).expand(shape)


@rule(aten.convolution)
def convolution(t: Tracer, call: Call) -> Tensor:
    """Dense, grouped, depthwise and transposed convolutions of any number of dimensions."""
    x, weight, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    if not isinstance(call.out, Tensor) or x.dim() != weight.dim():
        return _unsupported(t, call, 'is a convolution without a batch dimension')
    view = t.parameters.view(weight)
    if view is None or view.dims[0] not in (0, None) or view.dims[1] not in (1, None):
        return _unsupported(t, call, 'has a convolution weight that is computed, not a parameter')
    name = view.name
    incoming = t.store.along(t.labels(x), 1)
    out_channels = call.out.size(1)
    positions = prod(x.shape[2:]) if transposed else prod(call.out.shape[2:])
    kernel = positions * prod(weight.shape[2:])

    if groups > 1 and weight.size(1) == 1 and not transposed:  # depthwise, with any multiplier
        outgoing = incoming.repeat_interleave(out_channels // groups)
        t.axis(name, 0, outgoing, 'through')
        t.cost(kernel, outgoing)
    elif groups > 1 and transposed:
        return _unsupported(t, call, 'is a grouped transposed convolution')
    else:
        in_dim, out_dim = (0, 1) if transposed else (1, 0)
        if groups > 1:
            incoming = _alike_in_groups(t, incoming, groups)
        known = t.known_axis(name, out_dim)
        outgoing = t.store.fresh(out_channels) if known is None else known
        if groups > 1:
            t.store.unify(outgoing.view(groups, -1)[:1], outgoing.view(groups, -1))
        t.axis(name, in_dim, incoming, 'in')
        t.axis(name, out_dim, outgoing, 'out')
        t.cost(kernel, incoming, outgoing)
    _vector(t, bias, outgoing)
    return expand_along(outgoing, 1, call.out.shape)


def _alike_in_groups(t: Tracer, incoming: Tensor, groups: int) -> Tensor:
    """Groups must shrink alike: channel j of every group is one element. Shape (channels / groups,)."""
    table = incoming.view(groups, -1)
    t.store.unify(table[:1], table)
    partly_fixed = (table == 0).any(0) & (table > 0).any(0)
    if bool(partly_fixed.any()):
        t.freeze(table[:, partly_fixed], 'enters a grouped convolution beside channels of fixed number')
    return table.amax(0)


def _unsupported(t: Tracer, call: Call, reason: str) -> Tensor:
    for tensor in call.tensors:
        t.freeze(t.labels(tensor), f'{t.module or "the network"} {reason}')
        t.opaque(tensor, reason)
    return no_labels(call.out.shape)


def _vector(t: Tracer, parameter: Tensor | None, labels: Tensor) -> None:
    """A bias, or an affine or running vector of a norm, follows ``labels``."""
    if parameter is None:
        return
    view = t.parameters.view(parameter)
    if view is None or len(view.dims) != 1:
        t.freeze(labels, 'meets a per-channel vector that is computed, not a parameter')
    else:
        t.axis(view.name, 0, labels, 'through')


def _contract(t: Tracer, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, in) times weight (in, out), where weight shows a parameter either way round."""
    view = t.parameters.view(weight)
    known_in, known_out = view.dims if view is not None else (None, None)
    if view is None:
        return _activations(t, call, x, weight, bias)
    dims = {0, 1} - {known_in, known_out}
    in_dim = known_in if known_in is not None else (dims.pop() if dims else 0)
    out_dim = known_out if known_out is not None else 1 - in_dim
    incoming = t.store.along(t.labels(x), 1)
    outgoing = t.known_axis(view.name, out_dim)
    if outgoing is None:
        outgoing = t.store.fresh(weight.size(1))
    t.axis(view.name, in_dim, incoming, 'in')
    t.axis(view.name, out_dim, outgoing, 'out')
    t.cost(x.size(0), incoming, outgoing)
    _vector(t, bias, outgoing)
    return expand_along(outgoing, 1, call.out.shape)


def _activations(t: Tracer, call: Call, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """A product of two activations, (..., rows, n) times (..., n, columns).

    Elements along the contracted dimension would have to be masked inside the
    product, which no weight can do: they freeze. Elements along rows or columns
    pass, as long as only one factor carries any.
    """
    left, right = t.elementwise_labels(x), t.elementwise_labels(y)
    for operand in (x, y):
        t.opaque(operand, 'is multiplied as an activation')
    if bias is not None:
        t.freeze(t.elementwise_labels(bias), 'is added to a product of two activations')
    if compact(left).size(-1) > 1 or compact(right).size(-2) > 1:
        t.freeze(left, 'is contracted between two activations')
        t.freeze(right, 'is contracted between two activations')
        return _product_cost(t, call, x, no_labels(call.out.shape))
    rows = left.narrow(-1, 0, 1)
    columns = right.narrow(-2, 0, 1)
    if bool(compact(rows).any()) and bool(compact(columns).any()):
        t.freeze(rows, 'is multiplied by another labelled activation')
        t.freeze(columns, 'is multiplied by another labelled activation')
        return _product_cost(t, call, x, no_labels(call.out.shape))
    return _product_cost(t, call, x, torch.maximum(rows, columns).expand(call.out.shape))


def _product_cost(t: Tracer, call: Call, x: Tensor, labels: Tensor) -> Tensor:
    """Multiply-accumulates of a product; they shrink with the labelled dimension of its result."""
    total = call.out.numel() * x.size(-1)
    varying = [dim for dim, size in enumerate(compact(labels).shape) if size > 1]
    if len(varying) == 1:
        axis = compact(labels).flatten()
        t.cost(total / axis.numel(), axis)
    else:
        t.cost(total)
    return labels


@rule(aten.addmm)
def addmm(t: Tracer, call: Call) -> Tensor:
    """bias + x @ weight: what F.linear becomes for 2-D input."""
    bias, x, weight = call.args[:3]
    return _contract(t, call, x, weight, bias)


@rule(aten.mm)
def mm(t: Tracer, call: Call) -> Tensor:
    """x @ weight."""
    x, weight = call.args[:2]
    return _contract(t, call, x, weight, None)


@rule(aten.bmm)
def bmm(t: Tracer, call: Call) -> Tensor:
    """Batched product of activations."""
    return _activations(t, call, *call.args[:2])


@rule(aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training)
def batch_norm(t: Tracer, call: Call) -> list[Tensor]:
    """Batch norm acts on every channel separately."""
    x, *vectors = call.args[:5]
    labels = t.store.along(t.labels(x), 1)
    for vector in vectors:
        if isinstance(vector, Tensor):
            _vector(t, vector, labels)
    affine = isinstance(vectors[0], Tensor)
    t.cost((2 if affine else 1) * x.numel() / x.size(1), labels)
    return [expand_along(labels, 1, x.shape)]
