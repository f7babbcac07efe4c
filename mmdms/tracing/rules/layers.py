"""What rules of layers share: vectors that follow channels, and maps with heads along their batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..context import RuleContext
from ..declarations import axis_labels
from ..labels import canonical, compact, no_labels, varying_dims


def expand_along(labels: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Labels of one dimension, broadcast to a whole tensor of ``shape``."""
    view = [1] * len(shape)
    view[dim] = -1
    return labels.view(view).expand(shape)


def per_channel(t: RuleContext, parameter: Tensor | None, labels: Tensor) -> None:
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


def heads_in_batch(t: RuleContext, x: Tensor) -> Tensor | None:
    """Labels (B * heads, width) of a map (B * heads, width, ...) with heads along its batch; None of others."""
    labels = t.labels(x)
    dims = varying_dims(labels)
    if 0 not in dims or dims[-1] > 1 or (dims != [0] and t.store.factors_of(compact(labels)) is None):
        return None
    for _ in range(x.dim() - 2):
        labels = labels.select(-1, 0)
    return labels


def width_of_heads(t: RuleContext, heads: Tensor) -> Tensor:
    """Labels along the width of such a map; none where its elements are whole heads."""
    return no_labels(heads.shape[1:]) if varying_dims(canonical(heads)) == [0] else axis_labels(t, heads, 1)
