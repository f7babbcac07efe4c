"""Count FLOPs at another input size than the one that was traced.

Which elements there are does not depend on the size of the input, so a network
is traced on a small one. What an operation costs does: the network runs once
more on an input of the real size, where convolutions and matrix products give
out zeros of the right shape at once, and every cost is scaled by how much more
its operation has to do there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ..errors import GeometryError
from ..network.example_call import ExampleCall, Inputs
from .trace import Trace

aten = torch.ops.aten

SKIPPED = {
    aten.convolution, aten.addmm, aten.mm, aten.mv, aten.bmm, aten.baddbmm,
    aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training,
    aten.native_layer_norm, aten.native_group_norm,
}  # fmt: skip
"""Operations whose values are not needed to know their shape, and that take nearly all the time."""

RESAMPLES = {aten.upsample_bilinear2d, aten.upsample_nearest2d, aten.grid_sampler_2d}

COSTED = SKIPPED | RESAMPLES | {aten.mean, aten._adaptive_avg_pool2d}
"""Every operation that a rule may find a cost for."""

IN_PLACE = {'relu_', 'silu_', 'leaky_relu_', 'hardtanh_', 'hardswish_', 'sigmoid_', 'add_', 'mul_'}
"""Activations and sums in place: they change values alone, which matter as little."""

LARGE = 1 << 16
"""Tensors of more values than this are left as they are by those: smaller ones may be coordinates."""


def work(packet: Any, args: Sequence[Any], out: Any) -> int:
    """A number that the FLOPs of an operation of ``COSTED`` grow in proportion to, its channels given."""
    if packet in (aten.mm, aten.bmm):
        return int(out.numel() * args[0].size(-1))
    if packet in (aten.addmm, aten.baddbmm):
        return int(out.numel() * args[1].size(-1))
    if packet is aten.convolution:
        transposed = bool(args[6])
        return int(args[0].numel() if transposed else out.numel())
    if packet in RESAMPLES:
        return int(out.numel())
    return int(args[0].numel())


class Geometry(TorchDispatchMode):
    """Dispatch mode that notes the work of every operation of ``COSTED`` and computes as little as it can."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in SKIPPED:
            shaped = func(*tree_map(_meta, args), **tree_map(_meta, kwargs or {}))
            out = tree_map(lambda leaf: torch.zeros_like(leaf, device='cpu'), shaped)
        elif packet.__name__ in IN_PLACE and args[0].numel() > LARGE:
            out = args[0]  # an activation in place
        else:
            out = func(*args, **kwargs or {})
        if packet in COSTED:
            self.operations.append((packet, work(packet, args, out)))
        return out


def _drop(saved: Tensor) -> Any:
    return None


def _meta(leaf: Any) -> Any:
    return leaf.to('meta') if isinstance(leaf, Tensor) else leaf


def scale_costs(trace: Trace, forward: Callable[..., Any], inputs: Inputs) -> None:
    """Scale the costs of a trace to what they are for other inputs, in place.

    Args:
        trace: of the network on a small input.
        forward: what was traced, adapters included.
        inputs: of its call (see :meth:`ExampleCall.of`), at the size at which FLOPs are counted.

    Raises:
        GeometryError: if the network does other operations on these inputs than on those that were traced, or one
            that did nothing there.
    """
    mode = Geometry()
    # Gradients stay on, as in the trace: without them PyTorch chooses other products. Nothing is kept for them.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_drop, _drop), mode:
        ExampleCall.of(inputs).run(forward)
    small, real = trace.operations, mode.operations
    if [operation.packet for operation in small] != [packet for packet, _ in real]:
        raise GeometryError(
            f'the network does other operations on its real input ({len(real)} that cost something) than on a small '
            f'one ({len(small)})'
        )
    for operation, (packet, amount) in zip(small, real, strict=True):
        if not operation.work:
            if amount:
                raise GeometryError(f'{packet} has nothing to do on a small input, and something on the real one')
            continue  # a product of no rows (masks of objects where there are none) costs nothing
        for index in operation.costs:
            term = trace.costs[index]
            trace.costs[index] = replace(term, coefficient=term.coefficient * amount / operation.work)
