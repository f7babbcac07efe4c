"""What a trace writes down: axes of parameters, cost terms, calls of blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from ..space.frozen import FreezeReason
from .labels import LabelStore


@dataclass
class Axis:
    """One dimension of one parameter or buffer that follows channel elements.

    ``role`` is ``'in'`` where the parameter contracts over the elements (so a
    mask on this dimension removes them), ``'out'`` where it produces them, and
    ``'through'`` where it acts on each of them separately. An axis may be ``masked``
    in another role than ``'in'``, where a norm of a weight must not see what is gone.
    The rows of a table of embeddings produce elements where they are ``looked_up``; the table may be the weight of
    an output layer too, which contracts over the same elements.
    """

    parameter: str
    dim: int
    labels: Tensor
    role: str
    module: str
    masked: bool = False
    looked_up: bool = False

    @property
    def produces(self) -> bool:
        """Whether the parameter outputs the elements."""
        return self.role == 'out' or self.looked_up


@dataclass
class CostTerm:
    """FLOPs of one operation, a product of counts: ``coefficient * prod(count(axis) for axis in axes)``.

    Each axis is a label vector; its count is the number of positions kept.
    """

    coefficient: float
    axes: tuple[Tensor, ...]
    module: str


@dataclass
class Operation:
    """One call of an operation that may cost something.

    ``work`` is as :func:`mmdms.tracing.flops_rescaling.work` measures it, ``costs`` the places of its terms in
    ``Trace.costs``.
    """

    packet: Any
    work: int
    costs: range


@dataclass
class BlockCall:
    """One call of a module that stands in a row of modules.

    ``others`` holds the labels in and out of further tensors that it takes and
    hands on, ``outputs`` how many of its arguments it hands on in all, and ``in_tuple`` whether in a tuple.
    """

    name: str
    input_labels: Tensor
    output_labels: Tensor
    has_identity: bool
    problem: str | None = None
    others: tuple[tuple[Tensor, Tensor], ...] = ()
    outputs: int = 1
    in_tuple: bool = False

    @property
    def returns_one_in_a_tuple(self) -> bool:
        """Whether it returns a tuple of one tensor."""
        return self.in_tuple and self.outputs == 1

    @property
    def streams(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Labels in and out of every tensor that it takes and hands on."""
        return ((self.input_labels, self.output_labels), *self.others)


@dataclass
class Size:
    """An attribute of a module that holds how many elements there are, by ``(module, attribute)``.

    With ``values`` it holds a list instead, with one of these values per position. There are ``times`` as many
    elements as it says. ``begins`` says that the elements come from the attribute itself: the module makes as many
    positions as it says, and no layer outputs them.
    """

    labels: Tensor
    kind: str = 'channels'
    values: tuple[int, ...] | None = None
    times: Fraction = Fraction(1)
    begins: bool = False


@dataclass
class InnerMask:
    """Elements that a module masks in its own forward, by ``(module, name)``.

    ``removes`` says whether that mask takes the elements out of everything
    that follows, as a product with the mask does; a norm that leaves elements out of
    its statistics does not.
    """

    labels: Tensor
    removes: bool


@dataclass
class Trace:
    """Everything that one run of the network taught."""

    store: LabelStore
    axes: dict[tuple[str, int], Axis] = field(default_factory=dict)
    costs: list[CostTerm] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    blocks: dict[str, BlockCall] = field(default_factory=dict)
    branches: dict[str, tuple[str, ...]] = field(default_factory=dict)  # block -> parameters that end its branches
    together: dict[str, int] = field(default_factory=dict)  # container -> how many neighbours go or stay together
    streams: dict[str, int] = field(default_factory=dict)  # blocks that hand on several of their arguments -> how many
    sizes: dict[tuple[str, str], Size] = field(default_factory=dict)
    divided: set[str] = field(default_factory=set)  # modules that view channels as several parts
    contracted: set[str] = field(default_factory=set)  # modules that sum a product of two activations over channels
    heads: dict[str, list[Tensor]] = field(default_factory=dict)  # module -> labels along heads that it views
    inner: dict[tuple[str, str], InnerMask] = field(default_factory=dict)
    fused: set[str] = field(default_factory=set)  # modules that a deployment fuses into others
    uncounted: dict[str, str] = field(default_factory=dict)
    elementwise: dict[str, tuple[Tensor, str]] = field(default_factory=dict)
    opaque: dict[str, FreezeReason] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)  # parameter that an operation met -> that operation
    lost: dict[str, FreezeReason] = field(default_factory=dict)  # parameter -> where what it reads lost its elements
    kernels: set[tuple[str, int]] = field(
        default_factory=set
    )  # spatial extents of convolutions (parameter, dimension)
    ran: set[str] = field(default_factory=set)  # modules that were called
