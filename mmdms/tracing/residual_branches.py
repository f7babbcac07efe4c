"""Which parameters end the branches of a residual block.

A block ``x + F(x)`` whose branch ends in a norm, a convolution or a linear layer is gated at no cost:
``x + m * F(x)`` is the block with that layer's weight and bias times ``m``. While a network is traced, every tensor
is followed in two ways. It may be the *stream* of blocks: what they were given, plus branches. And it may *hang on*
parameters: it is a multiple of them, so that it is 0 where they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from .op_sets import Call
from .parameters import ParameterIndex

aten = torch.ops.aten


@dataclass(frozen=True)
class Flow:
    """What is known of one tensor.

    ``streams`` maps every block whose input passes in it to the parameters that end the branches added so far;
    ``ends`` are the parameters that it is a multiple of.
    """

    streams: dict[str, frozenset[str]] = field(default_factory=dict)
    ends: frozenset[str] = frozenset()
    nonnegative: bool = False


class BranchFinder:
    """Follows the streams and branches of blocks while a network is traced."""

    def __init__(self, parameters: ParameterIndex) -> None:
        self._parameters = parameters
        self._flows: Any = WeakTensorKeyDictionary()
        self._uses: Counter[str] = Counter()
        self._found: dict[str, frozenset[str]] = {}
        self._gives_nonnegative: dict[str, bool] = {}

    def enter(self, block: str, given: Tensor) -> None:
        """A block begins; ``given`` is its first argument."""
        flow = self._flow(given)
        self._gives_nonnegative[block] = flow.nonnegative
        self._flows[given] = Flow({**flow.streams, block: frozenset()}, flow.ends, flow.nonnegative)

    def leave(self, block: str, output: Any) -> None:
        """A block ends."""
        ends = self._flow(output).streams.get(block) if isinstance(output, Tensor) else None
        if ends:
            self._found[block] = ends

    def alias(self, tensor: Tensor, other: Tensor) -> None:
        """``other`` is ``tensor``."""
        self._flows[other] = self._flow(tensor)

    def found(self) -> dict[str, tuple[str, ...]]:
        """Per block the parameters that end its branches, all of them used once in the whole network."""
        return {
            block: tuple(sorted(ends))
            for block, ends in self._found.items()
            if all(self._uses[name] == 1 and name.startswith(f'{block}.') for name in ends)
        }

    def follow(self, call: Call) -> None:
        """Take note of one operation."""
        packet = call.func.overloadpacket
        if packet not in VIEWS:
            for tensor in call.tensors:
                owner = self._parameters.owner(tensor)
                if owner is not None:
                    self._uses[owner[0]] += 1
        flow = self._result(packet, call)
        outputs = [leaf for leaf in tree_flatten(call.out)[0] if isinstance(leaf, Tensor)]
        for index, tensor in enumerate(outputs):
            if flow is not None and (index == 0 or packet in SPLITS):
                self._flows[tensor] = flow
            else:
                self._flows.pop(tensor, None)  # written in place, it is no longer what it was

    def _flow(self, tensor: Any) -> Flow:
        if not isinstance(tensor, Tensor):
            return Flow()
        owner = self._parameters.owner(tensor)
        if owner is not None:
            return Flow(ends=frozenset({owner[0]})) if isinstance(owner[1], torch.nn.Parameter) else Flow()
        known = self._flows.get(tensor)
        return Flow() if known is None else known

    def _result(self, packet: Any, call: Call) -> Flow | None:
        if packet in SITES:
            weight, bias = (call.args[place] if place < len(call.args) else None for place in SITES[packet])
            ends = self._flow(weight).ends if self._is_parameter(weight) else frozenset()
            if not ends or (bias is not None and not self._is_parameter(bias)):
                return None
            return Flow(ends=ends | self._flow(bias).ends)
        if packet in (aten.add, aten.add_):
            return self._sum(call)
        if packet in (aten.mul, aten.mul_):
            first, second = call.args[:2]
            a, b = self._flow(first), self._flow(second)
            number = not isinstance(second, Tensor) and second >= 0
            nonnegative = a.nonnegative and (b.nonnegative or number)
            # A layer scale is smaller than the layer before it: a factor that is a parameter comes first.
            own = next((f.ends for f, t in ((b, second), (a, first)) if self._is_parameter(t)), None)
            return Flow(ends=own or a.ends or b.ends, nonnegative=nonnegative)
        flow = self._flow(call.args[0]) if call.args else Flow()
        if packet in RECTIFIERS:
            streams = {b: ends for b, ends in flow.streams.items() if self._gives_nonnegative[b]}
            return Flow(streams, flow.ends, nonnegative=True)
        if packet in NONNEGATIVE:
            bound = call.arg(1, 'min', -1.0) if packet in CLAMPS else 0.0
            return Flow(nonnegative=isinstance(bound, (int, float)) and bound >= 0)
        if packet is aten.constant_pad_nd and call.arg(2, 'value', 0) != 0:
            return None
        same = packet in COPIES or (packet in RESHAPES and call.out.shape == call.args[0].shape)
        if same:
            return flow
        if packet in LINEAR:
            return Flow(ends=flow.ends, nonnegative=flow.nonnegative and packet not in SIGNED)
        return None

    def _sum(self, call: Call) -> Flow | None:
        first, second = call.args[:2]
        if not isinstance(second, Tensor) or call.kwargs.get('alpha', 1) != 1:
            return None
        a, b = self._flow(first), self._flow(second)
        streams: dict[str, frozenset[str]] = {}
        for stream, branch, x in ((a, b, first), (b, a, second)):
            if branch.ends and x.shape == call.out.shape:
                for block, ends in stream.streams.items():
                    if block not in branch.streams:
                        streams[block] = ends | branch.ends
        ends = a.ends | b.ends if a.ends and b.ends else frozenset()
        return Flow(streams, ends, a.nonnegative and b.nonnegative)

    def _is_parameter(self, tensor: Any) -> bool:
        owner = self._parameters.owner(tensor) if isinstance(tensor, Tensor) else None
        return owner is not None and isinstance(owner[1], torch.nn.Parameter)


SITES: dict[Any, tuple[int, int]] = {
    aten.convolution: (1, 2), aten.addmm: (2, 0), aten.mm: (1, 99),
    aten.native_batch_norm: (1, 2), aten._native_batch_norm_legit: (1, 2),
    aten._native_batch_norm_legit_no_training: (1, 2), aten.cudnn_batch_norm: (1, 2),
    aten.native_layer_norm: (2, 3), aten.native_group_norm: (1, 2),
}  # fmt: skip
"""Where an operation takes its weight and its bias."""

RESHAPES = {aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias}
SPLITS = {aten.split, aten.split_with_sizes, aten.unbind}
VIEWS = {*RESHAPES, *SPLITS, aten.permute, aten.transpose, aten.t, aten.expand, aten.unsqueeze, aten.squeeze,
         aten.slice, aten.select, aten.detach, aten.alias, aten.unfold, aten.narrow}  # fmt: skip
COPIES = {aten.clone, aten.detach, aten.alias, aten.contiguous}
LINEAR = {*VIEWS, *COPIES, aten.neg, aten.div, aten.div_, aten.roll, aten.flip, aten.constant_pad_nd,
          aten.pixel_shuffle, aten.pixel_unshuffle, aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.mean,
          aten.max_pool2d_with_indices, aten.index_select, aten.upsample_nearest2d, aten.upsample_bilinear2d,
          aten.native_dropout}  # fmt: skip
"""Operations whose result is 0 if their first operand is, and scales with it."""
SIGNED = {aten.neg, aten.div, aten.div_}

RECTIFIERS = {aten.relu, aten.relu_}
CLAMPS = {aten.hardtanh, aten.hardtanh_, aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_min_}
NONNEGATIVE = {*CLAMPS, aten.sigmoid, aten.sigmoid_, aten.hardsigmoid, aten.hardsigmoid_, aten.abs, aten._softmax}
