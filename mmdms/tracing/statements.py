"""Further things that the forward of an adapter can state while it is traced; elsewhere they do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten

from .declarations import active_tracer


def keeps_identity(out: Tensor, x: Tensor) -> Tensor:
    """Return ``out``, stating that its module may be replaced by a pass-through of ``x``.

    The tracer sees by itself where a module adds its input to its output. It does not see an
    identity that the module scales (by a learnt factor, or by a norm of its input), because there the
    input does not pass as it is. Such a module is a block as good: removed, ``x`` takes its place.
    """
    tracer = active_tracer()
    if tracer is not None:
        given, result = tracer.records.get(x), tracer.records.get(out)
        if given is not None and result is not None:
            result.identities |= given.identities
    return out


def rehearse(run: Callable[[], Any]) -> None:
    """Trace what a module runs in training only: weights there read channels too, and shrink with them.

    What ``run`` returns counts as an output. No FLOPs are counted: a network is measured in evaluation mode.
    """
    tracer = active_tracer()
    if tracer is None:
        return
    costs, operations = len(tracer.trace.costs), len(tracer.trace.operations)
    outputs = tree_flatten(run())[0]
    with _disable_current_modes(), torch.no_grad():
        for leaf in outputs:
            if isinstance(leaf, Tensor):
                tracer.freeze(tracer.labels(leaf), 'reaches an output of the network')
    del tracer.trace.costs[costs:]
    del tracer.trace.operations[operations:]
