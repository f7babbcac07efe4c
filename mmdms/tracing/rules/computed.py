"""How computed weights (see :mod:`mmdms.tracing.computed`) pass through operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isnan, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..computed import NAN, OTHER, ZERO, ComputedWeight, Dimension, Reduction
from ..context import RuleContext
from ..labels import canonical, compact, named, varying_dims
from ..layer_weights import merged
from ..op_sets import MOVES, RESHAPES, Call, is_pointwise
from .table import RULES

aten = torch.ops.aten

COPIES = {aten.clone, aten.contiguous, aten._to_copy, aten.detach, aten.alias, aten.lift_fresh}
MOVED = (RESHAPES | MOVES | {aten.flip}) - {aten.select, aten.slice}
SUMS = {aten.sum, aten.linalg_vector_norm, aten.norm}
"""Reductions to which a 0 adds nothing."""
STATISTICS = {aten.mean, aten.var, aten.std, aten.var_mean, aten.std_mean, aten.amax, aten.amin}
BATCH_NORMS = {aten.native_batch_norm, aten._native_batch_norm_legit}
CONTRACTIONS = {aten.mv, aten.dot, aten.vdot}


def follow(t: RuleContext, call: Call) -> ComputedWeight | None:
    """The result of an operation as a computed weight; None if it is none, or the operation is not understood."""
    packet = call.func.overloadpacket
    handler = HANDLERS.get(packet, _pointwise if is_pointwise(call.func) else None)
    if handler is None or call.func._schema.is_mutable or not _is_computed(t, call, handler is _pointwise):
        return None
    return handler(t, call)


def _is_computed(t: RuleContext, call: Call, pointwise: bool) -> bool:
    """Whether all operands are parameters or computed from them, but for what is spread over a larger weight."""
    out = call.out[0] if isinstance(call.out, (tuple, list)) else call.out
    large = [x for x in call.tensors if x.numel() > 1 or (t.is_weight(x) and t.parameters.owner(x) is None)]
    weights = [x for x in large if t.is_weight(x)]
    if not weights or not isinstance(out, Tensor):
        return False
    others = [x for x in large if not t.is_weight(x)]
    largest = max(x.numel() for x in weights)
    return not others or (pointwise and largest == out.numel() and all(x.numel() < largest for x in others))


def _reductions(t: RuleContext, tensors: list[Tensor]) -> tuple[Reduction, ...]:
    return tuple(r for x in tensors if t.is_weight(x) for r in getattr(t.computed(x), 'reductions', ()))


def _copied(t: RuleContext, call: Call) -> ComputedWeight | None:
    return t.computed(call.args[0])


def _moved(t: RuleContext, call: Call) -> ComputedWeight | None:
    computed = t.computed(call.args[0])
    if computed is None or call.out.numel() < call.args[0].numel():
        return None
    dims = []
    for dim in computed.dims:
        if call.func.overloadpacket in RESHAPES:
            labels = dim.labels.reshape(call.out.shape) if call.out.numel() == dim.labels.numel() else None
        else:
            labels = call.func(dim.labels, *call.args[1:], **call.kwargs)
        if labels is None:
            return None
        dims.append(replace(dim, labels=canonical(labels)))
    return replace(computed, dims=tuple(dims))


def _pointwise(t: RuleContext, call: Call) -> ComputedWeight | None:
    shape = call.out.shape
    groups: dict[tuple[int, ...], dict[int, Dimension]] = {}  # where elements lie, operand -> its elements there
    for place, operand in enumerate(call.tensors):
        dims = _dims(t, operand)
        if dims is None:
            return None
        for dim in dims:
            dim = replace(dim, labels=dim.labels.expand(shape))
            group = groups.setdefault(tuple(varying_dims(dim.labels)), {})
            if place in group:
                return None
            group[place] = dim
    if len([d for along in groups for d in along]) != len({d for along in groups for d in along}):
        return None
    found = tuple(_met(t, call, along, group) for along, group in groups.items())
    return ComputedWeight(found, _reductions(t, call.tensors))


def _dims(t: RuleContext, operand: Tensor) -> tuple[Dimension, ...] | None:
    """The elements of an operand; None if they lie along several dimensions at once."""
    if t.is_weight(operand):
        computed = t.computed(operand)
        return None if computed is None else computed.dims
    labels = canonical(t.labels(operand)) if operand.numel() > 1 else None
    if labels is None or not bool(compact(labels).any()):
        return ()
    if len(varying_dims(labels)) != 1 or t.store.factors_of(compact(labels)) is not None:
        return None
    return (Dimension(labels, {}, fixed=bool((compact(labels) == 0).any())),)


def _met(t: RuleContext, call: Call, along: tuple[int, ...], group: dict[int, Dimension]) -> Dimension:
    """Elements of several operands that lie along the same dimensions of the result."""
    met = merged(t, list(group.values()))
    count = len(call.tensors)
    masked = {
        source: _result(call, [group[i].masked.get(source, OTHER) if i in group else OTHER for i in range(count)])
        for source in met.masked
    }
    fixed = any(i not in group and _has_size(x, along, call.out.dim()) for i, x in enumerate(call.tensors))
    return replace(met, masked=masked, fixed=met.fixed or fixed)


def _has_size(x: Tensor, dims: tuple[int, ...], total: int) -> bool:
    """Whether an operand does not broadcast along some of the ``total`` dimensions of a result."""
    own = [dim - total + x.dim() for dim in dims]
    return any(dim >= 0 and x.size(dim) > 1 and x.stride(dim) != 0 for dim in own)


def _result(call: Call, states: list[float]) -> float:
    """Value of a masked position after a pointwise operation, which is run on one number per operand."""
    numbers = iter([state if state != OTHER else 0.6 + 1.1 * i for i, state in enumerate(states)])

    def scalar(leaf: Any) -> Any:
        return torch.tensor(next(numbers)).to(leaf.dtype) if isinstance(leaf, Tensor) else leaf

    args, kwargs = tree_map(scalar, (call.args, call.kwargs))
    value = float(call.func(*args, **kwargs))
    return NAN if isnan(value) or abs(value) == float('inf') else OTHER if value else ZERO


def _reduced(t: RuleContext, call: Call) -> ComputedWeight | None:
    x, packet = call.args[0], call.func.overloadpacket
    out = call.out[0] if isinstance(call.out, (tuple, list)) else call.out
    computed = t.computed(x)
    if computed is None or len(call.tensors) > 1:
        return None
    listed = call.arg(1 if packet not in (aten.linalg_vector_norm, aten.norm) else 2, 'dim', None)
    listed = [listed] if isinstance(listed, int) else listed
    over = sorted({d % x.dim() for d in listed} if listed else range(x.dim()))
    kept, reductions = [], list(computed.reductions)
    for dim in computed.dims:
        along = set(varying_dims(dim.labels))
        if along <= set(over):
            harmless = [source for source, value in dim.masked.items() if value == ZERO and packet in SUMS]
            reductions.append(Reduction(named(dim.labels), tuple(dim.masked), frozenset(harmless)))
        elif along & set(over):
            return None
        else:
            labels = dim.labels
            for place in over:
                labels = labels.narrow(place, 0, 1)
            labels = labels if out.dim() == x.dim() else labels.squeeze(tuple(over))
            kept.append(replace(dim, labels=labels.expand(out.shape)))
    return ComputedWeight(tuple(kept), tuple(reductions))


def _weight_norm(t: RuleContext, call: Call) -> ComputedWeight | None:
    """``g * v / norm(v)``, the norm over all dimensions but one."""
    v, g, dim = call.args[0], call.args[1], call.arg(2, 'dim', 0)
    weight, scale = t.computed(v), t.computed(g)
    if weight is None or scale is None:
        return None
    found, reductions = [], [*weight.reductions, *scale.reductions]
    for own in weight.dims:
        if varying_dims(own.labels) != [dim % v.dim()]:
            found.append(own)
            harmless = [source for source, value in own.masked.items() if value == ZERO]
            reductions.append(Reduction(named(own.labels), tuple(own.masked), frozenset(harmless)))
            continue
        both = merged(t, [own, *(replace(s, labels=s.labels.expand(v.shape)) for s in scale.dims)])
        masked = {**dict.fromkeys(own.masked, NAN), **{s: value for d in scale.dims for s, value in d.masked.items()}}
        found.append(replace(both, masked=masked))
    return ComputedWeight(tuple(found), tuple(reductions))


def _standardised(t: RuleContext, call: Call) -> ComputedWeight | None:
    """A batch norm with the statistics of a weight, whose output channels are its second dimension."""
    x, scale, shift = call.args[:3]
    computed, vectors = t.computed(x), [t.computed(v) for v in (scale, shift) if isinstance(v, Tensor)]
    if computed is None or None in vectors or not batch_statistics(call):
        return None
    kept, channels, reductions = [], [], list(computed.reductions)
    for dim in computed.dims:
        along = varying_dims(dim.labels)
        if along == [1]:
            channels.append(dim)
        elif 1 in along:
            return None
        else:
            kept.append(replace(dim, masked=dict.fromkeys(dim.masked, OTHER)))
            reductions.append(Reduction(named(dim.labels), tuple(dim.masked)))
    shape = [1, -1] + [1] * (x.dim() - 2)
    for vector in vectors:
        channels += [replace(d, labels=d.labels.reshape(shape).expand(x.shape)) for d in getattr(vector, 'dims', ())]
    dims = [*([merged(t, channels)] if channels else []), *kept]
    axes = [compact(dim.labels).flatten() for dim in dims]
    t.cost((5 if scale is not None else 4) * x.numel() / prod(map(len, axes)), *axes)
    return ComputedWeight(tuple(dims), (*reductions, *_reductions(t, call.tensors[1:])))


def batch_statistics(call: Call) -> bool:
    """Whether a batch norm takes its statistics from its input, as in training."""
    names = [argument.name for argument in call.func._schema.arguments]
    place = names.index('training') if 'training' in names else names.index('train') if 'train' in names else -1
    return place >= 0 and bool(call.arg(place, names[place]))


def _contracted(t: RuleContext, call: Call) -> ComputedWeight | None:
    """A matrix or a vector times a vector."""
    a, b = call.args[:2]
    first, second = t.computed(a), t.computed(b)
    last = a.dim() - 1
    if first is None or second is None:
        return None
    inner = [d for d in first.dims if last in varying_dims(d.labels)]
    if len(inner) != 1 or varying_dims(inner[0].labels) != [last] or len(second.dims) != 1:
        return None
    vector = t.store.along(inner[0].labels, last)
    t.store.unify(vector, second.dims[0].labels)
    masked = {**inner[0].masked, **second.dims[0].masked}
    harmless = frozenset(source for source, value in masked.items() if value == ZERO)
    kept = [replace(d, labels=d.labels.select(last, 0)) for d in first.dims if d is not inner[0]]
    summed = Reduction(vector, tuple(masked), harmless)
    return ComputedWeight(tuple(kept), (*first.reductions, *second.reductions, summed))


HANDLERS: dict[Any, Callable[[RuleContext, Call], ComputedWeight | None]] = {
    **dict.fromkeys(MOVED, _moved),
    **dict.fromkeys(COPIES, _copied),
    **dict.fromkeys(SUMS | STATISTICS, _reduced),
    **dict.fromkeys(BATCH_NORMS, _standardised),
    **dict.fromkeys(CONTRACTIONS, _contracted),
    aten._weight_norm_interface: _weight_norm,
}
RULES['computed'] = follow
