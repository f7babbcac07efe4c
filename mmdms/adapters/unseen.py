"""What adapters share whose modules call unseen operations, or hold elements that nothing may be cut from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..tracing import declarations


def untraced() -> AbstractContextManager[None]:
    """Where a trace sees no operation: some of a compiled operation's may be in PyTorch, and would puzzle it."""
    return nullcontext() if declarations.active_tracer() is None else _disable_current_modes()


def fixed(x: Tensor, *dims: int, reason: str) -> Tensor:
    """``x``; its elements along ``dims`` stay, for a reason that the report shows."""
    tracer = declarations.active_tracer()
    if tracer is None:
        return x
    with _disable_current_modes(), torch.no_grad():
        for dim in dims:
            tracer.freeze(declarations.axis_labels(tracer, tracer.labels(x), dim), reason)
    return declarations.hide(tracer, x, *dims)


def convolved(out: Tensor, x: Tensor, operation: str) -> Tensor:
    """``out``, which an unseen convolution computed from ``x`` with the ``weight`` of the running module.

    Args:
        out, x: (B, C, H, W).
        operation: name under which its FLOPs are reported as not counted: mmengine does not see it either.
    """
    tracer = declarations.active_tracer()
    if tracer is None:
        return out
    with _disable_current_modes(), torch.no_grad():
        weight, bias = (f'{tracer.module}.{name}' if tracer.module else name for name in ('weight', 'bias'))
        incoming, outgoing = tracer.store.along(tracer.labels(x), 1), tracer.known_axis(weight, 0)
        if outgoing is None:
            outgoing = tracer.store.fresh(out.size(1))
        tracer.axis(weight, 1, incoming, 'in')
        tracer.axis(weight, 0, outgoing, 'out')
        if getattr(tracer.running, 'bias', None) is not None:
            tracer.axis(bias, 0, outgoing, 'through')
        tracer.trace.used.setdefault(weight, operation)
        tracer.trace.kernels |= {(weight, dim) for dim in (2, 3)}
        tracer.trace.uncounted.setdefault(tracer.module, operation)
        return tracer.alias(out, outgoing[:, None, None].expand(out.shape))
