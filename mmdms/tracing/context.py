"""The questions that rules and declarations ask a trace that runs, and the facts that they state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from ..space.frozen import FreezeReason
from .computed import ComputedWeight
from .labels import LabelStore
from .op_sets import Call
from .parameters import ParameterIndex
from .tensor_records import TensorRecords
from .trace import Trace


class RuleContext(Protocol):
    """The tracer as rules (see :mod:`mmdms.tracing.rules`) and declarations see it.

    Attributes:
        trace: the facts found so far.
        store: all labels, and which of them are one.
        parameters: finds the parameter that a tensor shows.
        records: labels of every tensor that the network holds.
        heads_in: names of modules whose views of channels as several parts are known to be heads.
        last_frozen: why elements were frozen last by the operation that is followed; None if none were.
    """

    trace: Trace
    store: LabelStore
    parameters: ParameterIndex
    records: TensorRecords
    heads_in: frozenset[str]
    last_frozen: FreezeReason | None

    @property
    def module(self) -> str:
        """Dotted name of the module that is running."""

    @property
    def running(self) -> nn.Module:
        """The module that is running."""

    def numbered(self, line: str) -> str:
        """A line that calls something, numbered within this call of the module that is running."""

    def labels(self, tensor: Tensor) -> Tensor:
        """Labels of ``tensor``, of its shape."""

    def elementwise_labels(self, tensor: Tensor) -> Tensor:
        """Labels of an operand whose values are kept apart, of its shape."""

    def notice(self, tensor: Tensor) -> None:
        """Freeze the elements behind a tensor that was made by an operation that the dispatcher cannot see."""

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer, or computed from such."""

    def is_buffer(self, tensor: Tensor) -> bool:
        """Whether a tensor shows a buffer."""

    def computed(self, tensor: Tensor) -> ComputedWeight | None:
        """How a tensor follows the parameters that it is computed from; None if it does in no way known here."""

    def own_axis(self, parameter: str, dim: int) -> Tensor:
        """Labels along a dimension of a parameter, whether a layer has used it yet or not."""

    def extent(self, tensor: Tensor) -> Tensor:
        """Labels that the size of ``tensor`` follows, hidden ones included, of its shape."""

    def opaque(self, tensor: Tensor, reason: str) -> None:
        """State that an operation uses a parameter in a way that no rule covers: it keeps its size."""

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Freeze elements, naming the running module."""

    def axis(self, parameter: str, dim: int, labels: Tensor, role: str, masked: bool = False) -> None:
        """State that dimension ``dim`` of ``parameter`` follows ``labels``; the rest as of :class:`Axis`."""

    def look_up(self, parameter: str, labels: Tensor) -> None:
        """State that rows of a table are looked up, whose dimension 1 follows ``labels``."""

    def known_axis(self, parameter: str, dim: int) -> Tensor | None:
        """Labels of a parameter's dimension if an earlier call fixed them."""

    def alias(self, tensor: Tensor, labels: Tensor) -> Tensor:
        """The same values as a tensor of its own, with other labels."""

    def state(self, tensor: Tensor, labels: Tensor) -> None:
        """Labels of a tensor that an operation made which the dispatcher cannot see."""

    def masks_itself(self, labels: Tensor) -> bool:
        """Whether the running module masks these elements in its statistics, or there are none."""

    def uncounted(self, call: Call) -> None:
        """State that an operation has FLOPs which are not counted, because mmengine does not count them."""

    def cost(self, coefficient: float, *axes: Tensor) -> None:
        """Record the FLOPs of an operation: ``coefficient`` times the kept positions of every axis."""


Rule = Callable[[RuleContext, Call], Any]
"""Returns the labels of the result, or a list of those of all results; None where there are none."""
