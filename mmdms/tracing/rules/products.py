"""Linear layers, and products of activations."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..context import RuleContext
from ..labels import canonical, compact, no_labels, varying_dims
from ..layer_weights import ParameterWeight, WeightFromParameters, WeightOfLayer
from ..op_sets import Call
from .heads import same_heads
from .layers import expand_along, per_channel
from .table import rule

aten = torch.ops.aten


def _contract(t: RuleContext, call: Call, x: Tensor, tensor: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, in) times a weight (in, out), which may show a parameter either way round, or be computed from some."""
    weight = _weight(t, tensor)
    if weight is None:
        part = t.parameters.rows(tensor)
        return _activations(t, call, x, tensor, bias) if part is None else _rows(t, call, x, tensor, bias, *part)
    labels = t.elementwise_labels(x)  # embeddings of queries are parameters themselves
    rows = _only_rows(labels)
    incoming = no_labels((x.size(1),)) if rows is not None else t.store.along(labels, 1)
    outgoing = weight.known(1)
    if outgoing is None:
        outgoing = t.store.fresh(tensor.size(1))
    weight.follows(0, incoming, 'in')
    weight.follows(1, outgoing, 'out')
    per_channel(t, bias, outgoing)
    if rows is None:
        t.cost(x.size(0), incoming, outgoing)
        return expand_along(outgoing, 1, call.out.shape)
    t.cost(tensor.numel(), rows)
    t.freeze(outgoing, 'is given out for every channel anew, by a layer that mixes positions')
    return expand_along(rows, 0, call.out.shape)


def _weight(t: RuleContext, tensor: Tensor) -> WeightOfLayer | None:
    """The weight (in, out) of a linear layer; None if it is neither a whole parameter nor computed from some alone."""
    view = t.parameters.view(tensor)
    if view is None:
        computed = None if t.parameters.owner(tensor) is not None else t.computed(tensor)
        return None if computed is None or not computed.dims else WeightFromParameters(t, computed)
    known_in, known_out = view.dims
    dims = {0, 1} - {known_in, known_out}
    in_dim = known_in if known_in is not None else (dims.pop() if dims else 0)
    return ParameterWeight(t, view.name, (in_dim, known_out if known_out is not None else 1 - in_dim))


def _rows(t: RuleContext, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, name: str, first: int) -> Tensor:
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
    per_channel(t, bias, outgoing)
    t.cost(x.size(0), incoming, outgoing)
    return expand_along(outgoing, 1, call.out.shape)


def _only_rows(labels: Tensor) -> Tensor | None:
    """Labels of the rows of a matrix, if its columns carry none of their own (a layer that mixes positions)."""
    return labels[:, 0] if labels.size(1) > 1 and varying_dims(labels) == [0] else None


def _activations(t: RuleContext, call: Call, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
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
    left, right = (no_labels(x.shape) if t.is_buffer(x) else labels for x, labels in ((x, left), (y, right)))
    if bias is not None:
        t.freeze(t.elementwise_labels(bias), 'is added to a product of two activations')
    if compact(left).size(-1) > 1 or compact(right).size(-2) > 1:
        t.trace.contracted.add(t.module)
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
    same_heads(t, part, whole)
    return _product_cost(t, x, y, compact(whole).expand(call.out.shape))


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
)  # fmt: skip
def attention(t: RuleContext, call: Call) -> list[Tensor]:
    """Fused attention over (B, heads, tokens, width); an adapter must have hidden the width of query and key."""
    query, key, value = (t.labels(x) for x in call.args[:3])
    t.uncounted(call)
    for labels in (query, key):
        if compact(labels).size(-1) > 1 or compact(labels).size(-2) > 1:
            t.trace.contracted.add(t.module)
            t.freeze(labels, 'is contracted between query and key')
    if compact(value).size(-2) > 1:
        t.freeze(value, 'differs between tokens that attention mixes')
        value = no_labels(value.shape)
    for tensor in call.tensors[3:]:
        t.store.inside(t.elementwise_labels(tensor).narrow(-1, 0, 1), _per_query(value, query))
    out = call.out[0]
    value, key = (_per_query(x, query) for x in (value, key))
    for labels in (query, key):
        same_heads(t, labels.narrow(-1, 0, 1).narrow(-2, 0, 1), value)
    return [compact(value).expand(out.shape)]


def _per_query(labels: Tensor, query: Tensor) -> Tensor:
    """Labels of keys or values (B, heads, tokens, width), repeated for the queries that share them."""
    shared = query.size(1) // labels.size(1)
    return labels if shared == 1 else compact(labels).expand(-1, labels.size(1), -1, -1).repeat_interleave(shared, 1)


def _product_cost(t: RuleContext, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
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
def addmm(t: RuleContext, call: Call) -> Tensor:
    """bias + x @ weight: what F.linear becomes for 2-D input."""
    bias, x, weight = call.args[:3]
    return _contract(t, call, x, weight, bias)


@rule(aten.mm)
def mm(t: RuleContext, call: Call) -> Tensor:
    """x @ weight."""
    x, weight = call.args[:2]
    return _contract(t, call, x, weight, None)


@rule(aten.bmm)
def bmm(t: RuleContext, call: Call) -> Tensor:
    """Batched product of activations."""
    return _activations(t, call, *call.args[:2])


@rule(aten.mv)
def mv(t: RuleContext, call: Call) -> Tensor:
    """A matrix times a vector: what matmul becomes for a second operand of one dimension."""
    matrix, x = call.args[:2]
    rows, columns = t.elementwise_labels(matrix), t.elementwise_labels(x)
    for labels in (rows if 1 in varying_dims(rows) else no_labels(rows.shape), columns):
        t.freeze(labels, 'is contracted between two activations')
    for operand in (matrix, x):
        t.opaque(operand, 'is multiplied as an activation')
    t.cost(matrix.numel())
    return no_labels(call.out.shape) if 1 in varying_dims(rows) else compact(rows)[:, 0].expand(call.out.shape)
