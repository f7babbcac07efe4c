"""Data movement: the same operation, applied to the label tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...mutables import kind_of
from ..context import RuleContext
from ..labels import canonical, compact, no_labels, varying_dims
from ..op_sets import Call
from .heads import are_heads, is_one_head, whole_heads
from .table import rule

aten = torch.ops.aten


@rule(
    aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.permute, aten.transpose, aten.t, aten.expand,
    aten.unsqueeze, aten.squeeze, aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind,
    aten.unfold, aten.diagonal, aten.narrow, aten.numpy_T,
)  # fmt: skip
def view(t: RuleContext, call: Call) -> Any:
    """Views; a view of a parameter stays recognisable by its memory and needs no labels."""
    labels = t.labels(call.args[0])
    packet = call.func.overloadpacket
    if packet in (aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias):
        if call.out.numel() != labels.numel():  # the bits of each value, as another type
            t.freeze(labels, f'is taken apart by {call.func}')
            return no_labels(call.out.shape)
        labels = labels.reshape(call.out.shape)
        for outer, inner in _splits(call.args[0].shape, call.out.shape):
            if are_heads(t, labels, outer, inner):
                return whole_heads(t, labels, outer, inner)
            labels = _parts_alike(t, labels, outer, inner)
        return whole_heads(t, labels, -2, [-1]) if is_one_head(t, labels, call.args[0].shape) else labels
    if packet is aten.slice and t.module not in t.heads_in:
        labels = _halves_alike(t, labels, call)
    parts = call.func(labels, *call.args[1:], **call.kwargs)
    if packet is aten.split and call.arg(2, 'dim', 0) % labels.dim() in varying_dims(labels):
        _alike(t, parts)
    return parts


def _splits(before: torch.Size, after: torch.Size) -> Iterator[tuple[int, list[int]]]:
    """Where a view divides a dimension into several: each new dimension but the last of them, with those inside it.

    Two channels seen as two parts of one channel are divided too, though it looks as if a dimension of one were added.
    A dimension of one that was there before (as between two heads and one query) divides nothing.
    """
    if 0 in before:
        return
    position = 0
    for place, size in enumerate(before):
        divided: list[int] = []
        product = 1
        while position < len(after) and product * after[position] <= size and size % (product * after[position]) == 0:
            product *= after[position]
            divided.append(position)
            position += 1
            if product == size:
                break
        if product != size:  # dimensions are merged: what lies together stays together
            return
        divided = [dim for dim in divided if after[dim] > 1]
        if size == 2 and len(after) > len(before) and _ones(after[position:]) > _ones(before[place + 1 :]):
            yield position - 1, []
        for i, dim in enumerate(divided[:-1]):
            yield dim, divided[i + 1 :]


def _ones(sizes: torch.Size) -> int:
    """How many dimensions of one a shape begins with."""
    return next((i for i, size in enumerate(sizes) if size != 1), len(sizes))


def _knows_heads(t: RuleContext) -> bool:
    """Whether an attribute of the running module follows its number of heads."""
    counted = {module for (module, _), size in t.trace.sizes.items() if kind_of(size.kind).groups_channels}
    return t.module in t.heads_in or t.module in counted


def _parts_alike(t: RuleContext, labels: Tensor, outer: int, inner: list[int]) -> Tensor:
    """Channels viewed as equal parts (a channel shuffle, heads) shrink alike, as what views them divides evenly.

    Parts that are one element each may go as a whole: there are then fewer parts. Not so of two parts, which are
    nearly always halves: a network that divides channels by two finds no half of one. Where an adapter has stated how
    many heads there are, two parts are two heads.

    Returns:
        Labels in which all parts bear those of the first, so that what sums over parts mixes no channels.
    """
    narrow = compact(canonical(labels))
    whole = all(narrow.size(dim) == 1 for dim in inner)
    if narrow.size(outer) == 1 or (whole and (narrow.size(outer) != 2 or _knows_heads(t))):
        return labels
    if not whole:
        t.trace.divided.add(t.module)
    first = narrow.narrow(outer, 0, 1)
    t.store.unify(first, narrow)
    partly_fixed = (narrow == 0).any(outer, keepdim=True) & (narrow > 0)
    if bool(partly_fixed.any()):
        t.freeze(narrow[partly_fixed], 'is viewed as one of several parts beside channels of fixed number')
        return labels
    return first.expand(labels.shape)


def _halves_alike(t: RuleContext, labels: Tensor, call: Call) -> Tensor:
    """Channels sliced in the middle shrink alike on both sides, as what slices them looks for the middle."""
    dim, start, step = call.arg(1, 'dim', 0), call.arg(2, 'start') or 0, call.arg(4, 'step', 1)
    half = call.out.size(dim)
    if step != 1 or half * 2 != labels.size(dim) or start not in (0, half, -half):
        return labels
    parts = labels.unflatten(dim, (2, half))
    dim %= labels.dim()
    return _parts_alike(t, parts, dim, [dim + 1]).flatten(dim, dim + 1)


def _alike(t: RuleContext, parts: list[Tensor]) -> None:
    """Parts of equal size shrink alike: what cuts them (``chunk``) cuts evenly whatever size there is."""
    if any(part.shape != parts[0].shape for part in parts):
        for part in parts:
            t.freeze(part, 'is cut into parts of unequal size')
        return
    rows = torch.stack([compact(part) for part in parts])
    t.store.unify(rows[:1], rows)
    partly_fixed = (rows == 0).any(0, keepdim=True) & (rows > 0)
    t.freeze(rows[partly_fixed], 'is cut into equal parts beside channels of fixed number')


@rule(
    aten.roll, aten.flip, aten.repeat, aten.index_select, aten.pixel_shuffle, aten.pixel_unshuffle,
    aten.channel_shuffle, aten.rot90, aten.tril, aten.triu,
)  # fmt: skip
def move(t: RuleContext, call: Call) -> Any:
    """Copies that only rearrange."""
    labels = t.elementwise_labels(call.args[0])
    return call.func(labels, *call.args[1:], **call.kwargs)


@rule(aten.cat, aten.stack)
def join(t: RuleContext, call: Call) -> Tensor:
    """Concatenation; dimensions that are constant in every part stay cheap."""
    parts = [t.elementwise_labels(part) for part in call.args[0]]
    dim = call.arg(1, 'dim', 0)
    if call.func.overloadpacket is aten.stack:
        dim %= parts[0].dim() + 1
        parts = [part.unsqueeze(dim) for part in parts]
    # Legacy: torch.cat skips one-dimensional empty tensors.
    parts = [part for part in parts if part.shape != (0,)]
    if not parts:
        return no_labels(call.out.shape)
    dim %= parts[0].dim()
    for other in range(parts[0].dim()):
        if other != dim and all(part.stride(other) == 0 or part.size(other) == 1 for part in parts):
            parts = [part.narrow(other, 0, 1) for part in parts]
    return torch.cat(parts, dim).expand(call.out.shape)


@rule(
    aten.constant_pad_nd, aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad1d, aten.replication_pad2d
)
def pad(t: RuleContext, call: Call) -> Tensor:
    """Padding along a dimension where labels are constant belongs to the channel that it pads."""
    labels = t.elementwise_labels(call.args[0])
    amounts = list(call.args[1])
    padded = [labels.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount != 0]
    if not set(padded) & set(varying_dims(labels)):
        narrow = compact(labels)
        return narrow.expand(call.out.shape)
    if call.func.overloadpacket is aten.constant_pad_nd:
        return aten.constant_pad_nd(labels.contiguous(), amounts, 0)
    t.freeze(labels, f'is padded along channels by {call.func}')
    return no_labels(call.out.shape)


@rule(aten.index)
def index(t: RuleContext, call: Call) -> Tensor:
    """Advanced indexing, with indices that carry no element."""
    x, indices = call.args[:2]
    labels = t.elementwise_labels(x)
    for part in indices:
        if isinstance(part, Tensor):
            t.freeze(t.labels(part), 'is used as an index')
    return aten.index(labels, tree_map(lambda leaf: leaf, indices))


@rule(aten.index_add, aten.index_add_)
def index_add(t: RuleContext, call: Call) -> Tensor:
    """Rows added to some rows of a tensor, as experts add to a stream: what meets at one position is one element.

    Where the tensor carries no element yet, as a new one of zeros, its size is taken to be that of the rows.
    """
    x, dim, index, source = call.args[:4]
    t.freeze(t.labels(index), 'is used as an index')
    labels, added = canonical(t.elementwise_labels(x)), canonical(t.elementwise_labels(source))
    if not source.numel():
        return labels
    dim %= max(x.dim(), 1)
    if dim in varying_dims(labels) or dim in varying_dims(added):
        for own in (labels, added):
            t.freeze(own, f'is mixed with other elements by {call.func}')
        return no_labels(call.out.shape)
    own, other = torch.broadcast_tensors(*(compact(part.narrow(dim, 0, 1)) for part in (labels, added)))
    t.store.unify(own, other)
    if bool(own.any()):
        apart = (own == 0) != (other == 0)
        t.freeze(torch.where(apart, own + other, 0), f'meets a tensor of fixed size in {call.func}')
    return torch.maximum(own, other).expand(call.out.shape)


@rule(aten.embedding)
def embedding(t: RuleContext, call: Call) -> Tensor:
    """Rows of a table, looked up by indices that carry no element: the table outputs its second dimension."""
    table, indices = call.args[:2]
    t.freeze(t.labels(indices), 'is used as an index')
    view = t.parameters.view(table)
    if view is None or view.dims != (0, 1):
        t.opaque(table, f'reaches {call.func}')
        t.freeze(t.elementwise_labels(table), f'reaches {call.func}')
        return no_labels(call.out.shape)
    labels = t.known_axis(view.name, 1)
    labels = t.store.fresh(table.size(1)) if labels is None else labels
    t.look_up(view.name, labels)
    return labels.expand(call.out.shape)


@rule(aten.im2col)
def im2col(t: RuleContext, call: Call) -> Tensor:
    """Unfold: (1, C, H, W) to (1, C * kernel, positions); channels must be constant over space."""
    x = call.args[0]
    kernel = call.args[1][0] * call.args[1][1]
    return t.store.along(t.labels(x), 1).repeat_interleave(kernel)[None, :, None].expand(call.out.shape)


@rule(aten.view_as_complex, aten.view_as_real)
def complex_view(t: RuleContext, call: Call) -> Tensor:
    """The last dimension holds real and imaginary parts of one number, which are one element."""
    labels = t.elementwise_labels(call.args[0])
    if call.func.overloadpacket is aten.view_as_real:
        return labels[..., None].expand(call.out.shape)
    t.store.unify(labels[..., :1], labels)
    return labels[..., 0]
