"""Norms: batch, instance, layer and group norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..context import RuleContext
from ..declarations import axis_labels
from ..labels import compact
from ..op_sets import Call
from .computed import batch_statistics
from .layers import expand_along, heads_in_batch, per_channel, width_of_heads
from .table import rule

aten = torch.ops.aten


@rule(aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training)
def batch_norm(t: RuleContext, call: Call) -> list[Tensor]:
    """Batch norm acts on every channel separately."""
    x, *vectors = call.args[:5]
    heads = heads_in_batch(t, x)
    labels = t.store.along(t.labels(x), 1) if heads is None else width_of_heads(t, heads)
    for vector in vectors:
        if isinstance(vector, Tensor):
            per_channel(t, vector, labels)
    counted = labels if heads is None else heads.flatten()
    affine = isinstance(vectors[0], Tensor)
    if batch_statistics(call) or isinstance(t.running, nn.modules.instancenorm._InstanceNorm):
        per_value = 5 if affine else 4
    else:
        per_value = 2 if affine else 1
    t.cost(per_value * x.numel() / counted.numel(), counted)
    return [expand_along(labels, 1, x.shape) if heads is None else t.labels(x)]


@rule(aten.native_layer_norm)
def layer_norm(t: RuleContext, call: Call) -> list[Tensor]:
    """Layer norm over the last dimension; its module must take its statistics over what stays."""
    x, shape, *vectors = call.args[:4]
    labels = t.labels(x)
    if len(shape) != 1:
        return _mixed_by_norm(t, call, labels, 'layer norm')
    axis = axis_labels(t, labels, x.dim() - 1)
    if not t.masks_itself(axis):
        return _mixed_by_norm(t, call, labels, 'layer norm')
    for vector in vectors:
        per_channel(t, vector, axis)
    normalised = compact(labels).flatten()
    t.cost((5 if vectors[0] is not None else 4) * x.numel() / len(normalised), normalised)
    return [labels]


@rule(aten.native_group_norm)
def group_norm(t: RuleContext, call: Call) -> list[Tensor]:
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
        per_channel(t, vector, axis)
    t.cost(5 * x.numel() / x.size(1), axis)
    return [expand_along(axis, 1, x.shape)]


def _mixed_by_norm(t: RuleContext, call: Call, labels: Tensor, norm: str) -> list[Tensor]:
    reason = f'is normalised by a {norm} that knows no masks (an adapter could teach it)'
    for tensor in call.tensors:
        t.opaque(tensor, reason)
    t.freeze(labels, reason)
    t.cost((5 if call.args[2 if norm == 'layer norm' else 1] is not None else 4) * call.args[0].numel())
    return [labels]
