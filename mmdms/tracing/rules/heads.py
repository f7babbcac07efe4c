"""Attention heads that views of channels show: in modules where the parts of a view turned out to be heads.

The parts of a view shrink equally at first: of every part the same channels go, as a channel shuffle needs it. Where
a module sums a product of two activations over such channels, as of queries and keys, its parts are heads (see
:func:`mmdms.tracing.run.trace`). In a second trace each head is one element there: it goes as a whole, and the width
of a head stays.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..context import RuleContext
from ..labels import canonical, compact
from ..trace import Size

SIZES = ('dim', 'size', 'width', 'channels', 'features')
"""Words in names of attributes that hold a number of channels."""

JOINT = (2, 3)
"""Numbers of parts that are queries, keys and values (or keys and values) rather than heads, where heads follow.

Two parts of three are two heads, each with a query, a key and a value.
"""


def are_heads(t: RuleContext, labels: Tensor, outer: int, inner: list[int]) -> bool:
    """Whether dimension ``outer`` of a view counts heads, whose channels lie along ``inner``."""
    if t.module not in t.heads_in or not inner:
        return False
    narrow = compact(canonical(labels))
    joint = len(inner) > 1 and labels.size(outer) in JOINT and (labels.size(outer), labels.size(inner[0])) != (2, 3)
    return narrow.size(outer) > 1 and not joint


def is_one_head(t: RuleContext, labels: Tensor, before: torch.Size) -> bool:
    """Whether a view of a tensor of a shape from ``before`` shows its channels as those of one head (..., 1, n)."""
    added = labels.dim() == len(before) + 1 > 1 and labels.size(-1) == before[-1]
    return t.module in t.heads_in and added and labels.size(-2) == 1 and compact(canonical(labels)).size(-1) > 1


def whole_heads(t: RuleContext, labels: Tensor, outer: int, inner: list[int]) -> Tensor:
    """Labels of a view in which the channels of every head are one element."""
    narrow = first = compact(canonical(labels))
    for dim in inner:
        first = first.narrow(dim, 0, 1)
    t.store.unify(first, narrow)
    fixed = (narrow == 0) & (first > 0)
    if bool(fixed.any()):
        t.freeze(torch.where(fixed, first, 0), 'is a head beside channels of fixed number')
    first = first.expand(labels.shape)
    heads = t.store.along(first, outer)
    t.trace.heads.setdefault(t.module, []).append(heads)
    _note_attributes(t, heads, prod(labels.size(dim) for dim in inner))
    return first


def _note_attributes(t: RuleContext, heads: Tensor, width: int) -> None:
    """Attributes of the running module that hold the number of heads, or of all their channels, follow the heads.

    They are told by value and name. Where one is told wrongly, the slice differs from its mask, and the heads stay.
    """
    for name, value in vars(t.running).items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        counts = 'head' in name and not any(word in name for word in SIZES)
        if value == len(heads) and counts:
            _follows(t, name, Size(heads, 'heads'))
        elif value == len(heads) * width and not counts and any(word in name for word in SIZES):
            _follows(t, name, Size(heads.repeat_interleave(width)))


def per_head(t: RuleContext, shape: torch.Size) -> Tensor | None:
    """Labels of a constant (B, heads, queries, keys) that the running module makes; None of other constants."""
    if t.module not in t.heads_in or len(shape) != 4:
        return None
    counts = [s.labels for (module, _), s in t.trace.sizes.items() if module == t.module and s.kind == 'heads']
    found = next((labels for labels in counts if len(labels) == shape[1]), None)
    return None if found is None else found.view(1, -1, 1, 1).expand(shape)


def _follows(t: RuleContext, attribute: str, size: Size) -> None:
    known = t.trace.sizes.setdefault((t.module, attribute), size)
    t.store.unify(known.labels, size.labels)


def same_heads(t: RuleContext, part: Tensor, whole: Tensor) -> None:
    """Heads of two factors of a product meet: they are one, or one is part of the other, as adapters divide."""
    if t.module in t.heads_in:
        t.store.unify(part, whole)
    else:
        t.store.inside(part, whole)
