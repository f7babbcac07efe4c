"""Convolution, linear layers, batch norm: where parameters meet channel elements.

Costs are counted as mmengine's ``get_model_complexity_info`` counts them:
multiply-accumulates for convolutions and linear layers, 2 per element for an
affine batch norm in evaluation.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..calls import Call, rule
from ..hints import axis_labels
from ..labels import canonical, compact, no_labels, varying_dims
from ..tracer import Tracer

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
    out_channels = call.out.size(1)
    positions = x.size(0) * (prod(x.shape[2:]) if transposed else prod(call.out.shape[2:]))
    kernel = positions * prod(weight.shape[2:])

    heads = _heads_in_batch(t, x)
    if heads is not None and not transposed and out_channels == x.size(1):
        width = _width_of_heads(t, heads)
        if bool((width.view(groups, -1) == width.view(groups, -1)[:, :1]).all()):
            return _groups_per_head(t, call, name, heads, width)
    incoming = t.store.along(t.labels(x), 1)
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
            t.store.even(outgoing.view(groups, -1))
        t.axis(name, in_dim, incoming, 'in')
        t.axis(name, out_dim, outgoing, 'out')
        t.cost(kernel, incoming, outgoing)
    _vector(t, bias, outgoing)
    return expand_along(outgoing, 1, call.out.shape)


def _heads_in_batch(t: Tracer, x: Tensor) -> Tensor | None:
    """Labels (B * heads, width) of a map (B * heads, width, ...) with heads along its batch; None of others."""
    labels = t.labels(x)
    dims = varying_dims(labels)
    if 0 not in dims or dims[-1] > 1 or (dims != [0] and t.store.factors_of(compact(labels)) is None):
        return None
    for _ in range(x.dim() - 2):
        labels = labels.select(-1, 0)
    return labels


def _width_of_heads(t: Tracer, heads: Tensor) -> Tensor:
    """Labels along the width of such a map; none where its elements are whole heads."""
    return no_labels(heads.shape[1:]) if varying_dims(canonical(heads)) == [0] else axis_labels(t, heads, 1)


def _groups_per_head(t: Tracer, call: Call, name: str, heads: Tensor, width: Tensor) -> Tensor:
    """A convolution that all heads share, with one element in every group: groups follow the width of a head."""
    weight, bias = call.args[1:3]
    t.axis(name, 0, width, 'through')
    _vector(t, bias, width)
    per_group = weight.size(1)
    t.cost(prod(call.out.shape[2:]) * prod(weight.shape[1:]) * per_group, heads[:, ::per_group].flatten())
    return heads.reshape(*heads.shape, *[1] * (call.out.dim() - 2)).expand(call.out.shape)


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
    """A bias, or an affine or running vector of a norm, follows ``labels``; so does one computed from such."""
    if parameter is None:
        return
    view = t.parameters.view(parameter)
    if view is not None and len(view.dims) == 1:
        t.axis(view.name, 0, labels, 'through')
        return
    own = t.elementwise_labels(parameter)
    t.store.unify(own, labels)
    t.freeze(labels[own == 0], 'meets a per-channel vector of fixed size')


def _contract(t: Tracer, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, in) times weight (in, out), where weight shows a parameter either way round."""
    view = t.parameters.view(weight)
    known_in, known_out = view.dims if view is not None else (None, None)
    if view is None:
        part = t.parameters.rows(weight)
        return _activations(t, call, x, weight, bias) if part is None else _rows(t, call, x, weight, bias, *part)
    dims = {0, 1} - {known_in, known_out}
    in_dim = known_in if known_in is not None else (dims.pop() if dims else 0)
    out_dim = known_out if known_out is not None else 1 - in_dim
    labels = t.elementwise_labels(x)  # embeddings of queries are parameters themselves
    rows = _only_rows(labels)
    incoming = no_labels((x.size(1),)) if rows is not None else t.store.along(labels, 1)
    outgoing = t.known_axis(view.name, out_dim)
    if outgoing is None:
        outgoing = t.store.fresh(weight.size(1))
    t.axis(view.name, in_dim, incoming, 'in')
    t.axis(view.name, out_dim, outgoing, 'out')
    _vector(t, bias, outgoing)
    if rows is None:
        t.cost(x.size(0), incoming, outgoing)
        return expand_along(outgoing, 1, call.out.shape)
    t.cost(weight.numel(), rows)
    t.freeze(outgoing, 'is given out for every channel anew, by a layer that mixes positions')
    return expand_along(rows, 0, call.out.shape)


def _rows(t: Tracer, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, name: str, first: int) -> Tensor:
    """x (rows, in) times some rows of a parameter, from row ``first`` on, transposed to weight (in, out)."""
    whole = t.known_axis(name, 0)
    if whole is None:
        parameter = t.parameters.owner(weight)
        assert parameter is not None
        whole = t.store.fresh(len(parameter[1]))
        t.axis(name, 0, whole, 'out')
    outgoing = whole[first : first + weight.size(1)]
    incoming = t.store.along(t.elementwise_labels(x), 1)
    t.axis(name, 1, incoming, 'in')
    _vector(t, bias, outgoing)
    t.cost(x.size(0), incoming, outgoing)
    return expand_along(outgoing, 1, call.out.shape)


def _only_rows(labels: Tensor) -> Tensor | None:
    """Labels of the rows of a matrix, if its columns carry none of their own (a layer that mixes positions)."""
    return labels[:, 0] if labels.size(1) > 1 and varying_dims(labels) == [0] else None


def _activations(t: Tracer, call: Call, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """A product of two activations, (..., rows, n) times (..., n, columns).

    Elements along the contracted dimension would have to be masked inside the
    product, which no weight can do: they freeze, unless an adapter has hidden
    them. Elements along rows or columns pass, as long as only one factor
    carries any. Elements along the batch are heads: those of the second factor
    must be divided into the same heads (attention times values), or be the same.
    """
    left, right = t.elementwise_labels(x), t.elementwise_labels(y)
    for operand in (x, y):
        t.opaque(operand, 'is multiplied as an activation')
    if bias is not None:
        t.freeze(t.elementwise_labels(bias), 'is added to a product of two activations')
    if compact(left).size(-1) > 1 or compact(right).size(-2) > 1:
        t.freeze(left, 'is contracted between two activations')
        t.freeze(right, 'is contracted between two activations')
        return _product_cost(t, x, y, no_labels(call.out.shape))
    rows = left.narrow(-1, 0, 1)
    columns = right.narrow(-2, 0, 1)
    if not bool(compact(rows).any()) or not bool(compact(columns).any()):
        return _product_cost(t, x, y, torch.maximum(rows, columns).expand(call.out.shape))
    if compact(rows).size(-2) > 1 and compact(columns).size(-1) > 1:
        t.freeze(rows, 'is multiplied by another labelled activation')
        t.freeze(columns, 'is multiplied by another labelled activation')
        return _product_cost(t, x, y, no_labels(call.out.shape))
    part, whole = (rows, columns) if compact(rows).size(-2) == 1 else (columns, rows)
    t.store.inside(part, whole)
    return _product_cost(t, x, y, compact(whole).expand(call.out.shape))


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
)  # fmt: skip
def attention(t: Tracer, call: Call) -> list[Tensor]:
    """Fused attention over (B, heads, tokens, width); an adapter must have hidden the width of query and key."""
    query, key, value = (t.labels(x) for x in call.args[:3])
    t.uncounted(call)
    for labels in (query, key):
        if compact(labels).size(-1) > 1 or compact(labels).size(-2) > 1:
            t.freeze(labels, 'is contracted between query and key')
    if compact(value).size(-2) > 1:
        t.freeze(value, 'differs between tokens that attention mixes')
    for tensor in call.tensors[3:]:
        t.store.inside(t.elementwise_labels(tensor).narrow(-1, 0, 1), value)
    for labels in (query, key):
        t.store.inside(labels.narrow(-1, 0, 1).narrow(-2, 0, 1), value)
    out = call.out[0]
    return [compact(value).expand(out.shape)]


def _product_cost(t: Tracer, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    """Multiply-accumulates of a product (..., rows, n) times (..., n, columns); returns ``labels``.

    They shrink with every dimension that some elements make up, hidden ones included.
    """
    total = x.numel() * y.size(-1)
    axes: dict[tuple[str, ...], Tensor] = {}
    for tensor, names in ((x, ('batch', 'rows', 'n')), (y, ('batch', 'n', 'columns'))):
        extent = compact(t.extent(tensor))
        for part in t.store.factors_of(extent) or (extent,):
            narrow = compact(canonical(part))
            varying = tuple(names[dim - narrow.dim()] for dim in range(narrow.dim()) if narrow.size(dim) > 1)
            if varying:
                axes.setdefault(varying, narrow.flatten())
    chosen: list[tuple[str, ...]] = []
    for varying in sorted(axes, key=len, reverse=True):  # a dimension is counted once
        if not any(set(varying) & set(other) for other in chosen):
            chosen.append(varying)
    t.cost(total / prod(axes[varying].numel() for varying in chosen), *(axes[varying] for varying in chosen))
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
    heads = _heads_in_batch(t, x)
    labels = t.store.along(t.labels(x), 1) if heads is None else _width_of_heads(t, heads)
    for vector in vectors:
        if isinstance(vector, Tensor):
            _vector(t, vector, labels)
    counted = labels if heads is None else heads.flatten()
    affine = isinstance(vectors[0], Tensor)
    t.cost((2 if affine else 1) * x.numel() / counted.numel(), counted)
    return [expand_along(labels, 1, x.shape) if heads is None else t.labels(x)]


@rule(aten.native_layer_norm)
def layer_norm(t: Tracer, call: Call) -> list[Tensor]:
    """Layer norm over the last dimension; its module must take its statistics over what stays."""
    x, shape, *vectors = call.args[:4]
    labels = t.labels(x)
    axis = axis_labels(t, labels, x.dim() - 1)
    if len(shape) != 1 or not t.masks_itself(axis):
        return _mixed_by_norm(t, call, labels, 'layer norm')
    for vector in vectors:
        _vector(t, vector, axis)
    normalised = compact(labels).flatten()
    t.cost((5 if vectors[0] is not None else 4) * x.numel() / len(normalised), normalised)
    return [labels]


@rule(aten.native_group_norm)
def group_norm(t: Tracer, call: Call) -> list[Tensor]:
    """Group norm: several groups keep their size and go as a whole; a single one must be masked by its module."""
    x, *vectors, _, _, _, groups = call.args[:7]
    labels = t.labels(x)
    axis = t.store.along(labels, 1)
    if vectors[0] is None or (groups == 1 and not t.masks_itself(axis)):
        return _mixed_by_norm(t, call, labels, 'group norm')
    if groups > 1:
        table = axis.view(groups, -1)
        t.store.unify(table[:, :1], table)
        partly_fixed = (table == 0).any(1) & (table > 0).any(1)
        t.freeze(table[partly_fixed], 'shares a group of a group norm with channels of fixed number')
    for vector in vectors:
        _vector(t, vector, axis)
    t.cost(5 * x.numel() / x.size(1), axis)
    return [expand_along(axis, 1, x.shape)]


def _mixed_by_norm(t: Tracer, call: Call, labels: Tensor, norm: str) -> list[Tensor]:
    reason = f'is normalised by a {norm} that knows no masks (an adapter could teach it)'
    for tensor in call.tensors:
        t.opaque(tensor, reason)
    t.freeze(labels, reason)
    return [labels]
