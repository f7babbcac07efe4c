"""What a trace notes beside labels: which parameters are used, and where elements were lost.

An operation without a rule outputs a tensor without labels. A weight that reads this tensor has a fixed size along the
dimension, as the weight that reads an image has; the reason differs, and is noted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..space.frozen import FreezeReason
from .context import RuleContext
from .labels import compact
from .op_sets import MOVES, RESHAPES, Call
from .tensor_records import grad_fn

aten = torch.ops.aten

VIEWS = RESHAPES | MOVES | {aten.detach, aten.alias, aten._to_copy, aten.clone}
"""Operations that say nothing of what a parameter is for."""


def note_parameters(t: RuleContext, call: Call) -> None:
    """Note the parameters that an operation uses, which of them are kernels, and what they read."""
    packet = call.func.overloadpacket
    reads: FreezeReason | None = None
    names = []
    for tensor in call.tensors:
        owner = t.parameters.owner(tensor)
        if owner is None:
            reads = reads or lost_before(t, tensor)
            continue
        names.append(owner[0])
        if packet not in VIEWS or owner[0] not in t.trace.used:
            t.trace.used[owner[0]] = str(packet)
    if reads is not None:
        for name in names:
            t.trace.lost.setdefault(name, reads)
    if packet is aten.convolution and call.args[1].dim() > 2:
        t.trace.kernels |= set(_kernels(t, call.args[1]))


def lost_before(t: RuleContext, tensor: Tensor) -> FreezeReason | None:
    """Where the elements behind a tensor without labels were lost; None if there were none."""
    record = t.records.get(tensor)
    return None if record is None else record.lost


def lost_in(t: RuleContext, call: Call, labels: Tensor) -> FreezeReason | None:
    """Where the elements behind a result of an operation with such labels were lost; None if they were not."""
    if bool(compact(labels).any()):
        return None
    for tensor in call.tensors:
        owner, record = t.parameters.owner(tensor), t.records.get(tensor)
        if owner is not None and owner[0] in t.trace.opaque:
            return t.trace.opaque[owner[0]]
        if record is None:
            continue
        if record.lost is not None:
            return record.lost
        if bool(compact(record.labels).any()):
            return t.last_frozen or FreezeReason(t.module, f'passes {call.func}, which keeps no channels apart')
    return None


def _kernels(t: RuleContext, weight: Tensor) -> Iterator[tuple[str, int]]:
    """Spatial extents (parameter, dimension) of the weight of a convolution, or of those it is computed from."""
    view = t.parameters.view(weight)
    if view is not None:
        yield from ((view.name, dim) for dim in view.dims[2:] if dim is not None)
        return
    extents = weight.dim() - 2
    for parameter in _computed_from(weight):
        owner = t.parameters.owner(parameter)
        if owner is not None and parameter.dim() >= weight.dim() and parameter.shape[-extents:] == weight.shape[2:]:
            yield from ((owner[0], dim) for dim in range(parameter.dim() - extents, parameter.dim()))


def _computed_from(weight: Tensor) -> Iterator[Tensor]:
    """Parameters that a computed weight depends on, without those of layers that computed it from activations."""
    queue: list[Any] = [grad_fn(weight)]
    seen: set[Any] = set()
    while queue:
        node = queue.pop()
        if node is None or node in seen or node.name() == 'ConvolutionBackward0':
            continue
        seen.add(node)
        if hasattr(node, 'variable'):
            yield node.variable
        queue.extend(following for following, _ in node.next_functions)
