"""Run a network once and follow every channel element through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

from ..network.example_call import ExampleCall, Inputs
from ..network.trees import tensors_of
from ..space.frozen import FreezeReason
from .attention import UncountedAttention
from .attributes import FollowedSizes
from .computed import ComputedWeight
from .context import Rule
from .declarations import tracing
from .flops_rescaling import COSTED, work
from .labels import LabelStore, canonical, no_labels
from .layer_weights import of_parameter
from .module_scope import Watcher
from .op_sets import IDENTITY_OPS, MOVES, RESHAPES, Call, is_pointwise, without_values
from .parameters import ParameterIndex, layer_of
from .reductions import FollowedReductions
from .residual_branches import BranchFinder
from .tensor_records import Pending, Record, TensorRecords, grad_fn
from .trace import Axis, CostTerm, Operation, Trace
from .usage import lost_in, note_parameters


class Tracer(TorchDispatchMode):
    """Dispatch mode that keeps labels beside every tensor.

    Rules (see :mod:`mmdms.tracing.rules`) tell how labels pass through each
    operation. An operation without a rule freezes the labels that reach it, so
    an unknown operation costs coverage, never correctness.
    """

    def __init__(self, model: nn.Module, rules: Mapping[Any, Rule], heads_in: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.heads_in = heads_in
        self.trace = Trace(LabelStore())
        self.store = self.trace.store
        self.parameters = ParameterIndex(model)
        self._model = model
        self._rules = rules
        self.records = TensorRecords()
        self.branches = BranchFinder(self.parameters)
        self.last_frozen: FreezeReason | None = None  # by the operation that is followed
        self._watcher = Watcher(model, self, self.branches)
        self._own_axes: dict[tuple[str, int], Tensor] = {}

    # ---- what rules ask and say -------------------------------------------------

    @property
    def module(self) -> str:
        """Dotted name of the module that is running."""
        return self._watcher.module

    def numbered(self, line: str) -> str:
        """A line that calls something, numbered within this call of the module that is running."""
        return self._watcher.numbered(line)

    def labels(self, tensor: Tensor) -> Tensor:
        """Labels of ``tensor``, of its shape."""
        record = self.records.get(tensor)
        if record is not None and record.pending is not None:
            self._settle(record)
        if record is not None and not self.records.is_unseen(tensor):
            return record.labels
        if self.parameters.owner(tensor) is None:
            self._guard(tensor)
        return no_labels(tensor.shape)

    def notice(self, tensor: Tensor) -> None:
        """Freeze what an operation read that the dispatcher cannot see, if one made this tensor."""
        record = self.records.get(tensor)
        if record is None or record.pending is None:
            self.labels(tensor)

    def elementwise_labels(self, tensor: Tensor) -> Tensor:
        """Labels of an operand whose values are kept apart; a parameter's elements get labels of their own."""
        owner = self.parameters.owner(tensor)
        if owner is None or tensor.numel() == 1:
            return self.labels(tensor)
        name, parameter = owner
        if parameter.numel() > MAX_ELEMENTWISE_PARAMETER or not parameter.is_contiguous():
            self.opaque(tensor, 'is used elementwise and is too large or not contiguous')
            return self.labels(tensor)
        if name not in self.trace.elementwise:
            own = self.store.fresh(parameter.numel()).view(parameter.shape)
            self.trace.elementwise[name] = (own, self.module)
        # A view of the parameter shows the labels through the same window.
        own = self.trace.elementwise[name][0]
        return own.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - parameter.storage_offset())

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer, or computed from such."""
        record = self.records.get(tensor)
        return self.parameters.owner(tensor) is not None or (record is not None and record.computed is not None)

    def is_buffer(self, tensor: Tensor) -> bool:
        """Whether a tensor shows a buffer, a table of frequencies, say."""
        owner = self.parameters.owner(tensor)
        return owner is not None and not isinstance(owner[1], nn.Parameter)

    def computed(self, tensor: Tensor) -> ComputedWeight | None:
        """How a tensor follows the parameters that it is computed from; None if it does in no way known here."""
        record = self.records.get(tensor)
        return record.computed if record is not None and record.computed is not None else of_parameter(self, tensor)

    def own_axis(self, parameter: str, dim: int) -> Tensor:
        """Labels along a dimension of a parameter, whether a layer has used it yet or not."""
        known = self.known_axis(parameter, dim)
        if known is not None:
            return known
        if (parameter, dim) not in self._own_axes:
            self._own_axes[parameter, dim] = self.store.fresh(self.parameters.value(parameter).size(dim))
        return self._own_axes[parameter, dim]

    def opaque(self, tensor: Tensor, reason: str) -> None:
        """State that an operation uses a parameter in a way that nobody here understands: it keeps its size."""
        owner = self.parameters.owner(tensor)
        if owner is not None:
            self.trace.opaque.setdefault(owner[0], FreezeReason(self.module, f'parameter {owner[0]} {reason}'))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Freeze elements, naming the running module."""
        self.last_frozen = FreezeReason(self.module, reason)
        self.store.freeze(labels, self.last_frozen)

    def axis(self, parameter: str, dim: int, labels: Tensor, role: str, masked: bool = False) -> None:
        """State that dimension ``dim`` of ``parameter`` follows ``labels``; the rest as of :class:`Axis`."""
        known = self.trace.axes.get((parameter, dim))
        if known is None:
            self.trace.axes[parameter, dim] = Axis(parameter, dim, labels, role, layer_of(parameter), masked)
            return
        known.masked |= masked
        # A weight used by several calls is one weight: what it sees unifies over the calls.
        self.store.unify(known.labels, labels)
        lonely = (known.labels == 0) != (labels == 0)
        if bool(lonely.any()):
            reason = f'{parameter} is used by several calls, some with a fixed size'
            self.freeze(torch.cat([known.labels[lonely], labels[lonely]]), reason)
        if known.looked_up and known.role == 'out' and role == 'in':
            known.role = role  # the table of embeddings is the weight of an output layer too
        elif known.role != role:
            reason = f'{parameter} is used both as {known.role!r} and as {role!r}'
            self.freeze(torch.cat([known.labels, labels]), reason)

    def look_up(self, parameter: str, labels: Tensor) -> None:
        """State that rows of a table are looked up, whose dimension 1 follows ``labels``."""
        known = self.trace.axes.get((parameter, 1))
        self.axis(parameter, 1, labels, 'out' if known is None else known.role)
        self.trace.axes[parameter, 1].looked_up = True

    def known_axis(self, parameter: str, dim: int) -> Tensor | None:
        """Labels of a parameter's dimension if an earlier call fixed them."""
        axis = self.trace.axes.get((parameter, dim))
        return axis.labels if axis is not None else None

    def extent(self, tensor: Tensor) -> Tensor:
        """Labels that the size of ``tensor`` follows, hidden ones included, of its shape."""
        record = self.records.get(tensor)
        return self.labels(tensor) if record is None or record.extent is None else record.extent

    def alias(self, tensor: Tensor, labels: Tensor) -> Tensor:
        """The same values as a tensor of its own, with other labels."""
        with _disable_current_modes(), torch.enable_grad():  # a later guard must find its way back
            other = tensor.view_as(tensor)
            self.branches.alias(tensor, other)
        known = self.records.get(tensor)
        labels = canonical(labels)
        if known is None:
            self.records[other] = Record(labels)
        else:
            self.records[other] = Record(labels, known.identities, self.extent(tensor))
        return other

    def state(self, tensor: Tensor, labels: Tensor) -> None:
        """Labels of a tensor that an operation made which the dispatcher cannot see."""
        self.records[tensor] = Record(canonical(labels))

    def masks_itself(self, labels: Tensor) -> bool:
        """Whether the running module said that it masks these elements in its statistics, or there are none."""
        if not bool(labels.any()):
            return True
        return any(module == self.module for module, _ in self.trace.inner)

    def uncounted(self, call: Call) -> None:
        """State that an operation has FLOPs which are not counted, because mmengine does not count them."""
        self.trace.uncounted.setdefault(self.module, str(call.func.overloadpacket))

    def cost(self, coefficient: float, *axes: Tensor) -> None:
        """Record the FLOPs of an operation."""
        self.trace.costs.append(CostTerm(coefficient, axes, self.module))

    @property
    def running(self) -> nn.Module:
        """The module that is running."""
        return self._model.get_submodule(self.module)

    # ---- running ----------------------------------------------------------------

    def run(self, forward: Callable[..., Any], inputs: Inputs, keep: bool = False) -> Trace:
        """Call ``forward`` on ``inputs`` under this mode and return what was learnt.

        Autograd is on, as it knows where a tensor comes from; the values that it saves for a backward pass are
        dropped, or kept on request.
        """
        saved = nullcontext() if keep else torch.autograd.graph.saved_tensors_hooks(_drop, _dropped)
        functions = ExitStack()
        for mode in (UncountedAttention(self), FollowedReductions(self), FollowedSizes(self)):
            functions.enter_context(mode)
        with self._watcher.watching(), torch.enable_grad(), saved, tracing(self), functions, self:
            outputs = ExampleCall.of(inputs).run(forward)
        for tensor in tensors_of(outputs):
            self.freeze(self.labels(tensor), 'reaches an output of the network')
        self._watcher.finish()
        self.records.clear()
        self.trace.branches = self.branches.found()
        return self.trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.records.settle()
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        call = Call(func, args, kwargs, out)
        # Labels are tensors too: the work on them must not be traced (the mode is off inside its own handler).
        with torch.no_grad():
            self._follow(call)
            self.branches.follow(call)
        return out

    def _follow(self, call: Call) -> None:
        packet = call.func.overloadpacket
        note_parameters(self, call)
        self.last_frozen = None
        before = len(self.trace.costs)
        computed = self._rules['computed'](self, call)
        result = [] if computed is not None else self._rule(call)
        if packet in COSTED:
            costs = range(before, len(self.trace.costs))
            self.trace.operations.append(Operation(packet, work(packet, call.args, call.out), costs))
        identities = self._identities(call)
        outputs = tree_flatten(call.out)[0]
        padded = [*result, *[None] * (len(outputs) - len(result))]
        for place, (tensor, labels) in enumerate(zip(outputs, padded, strict=False)):
            if isinstance(tensor, Tensor):
                self._write(call, tensor, no_labels(tensor.shape) if labels is None else labels, identities)
                if computed is not None:
                    record = self.records[tensor]
                    record.computed, record.pending = computed, Pending(without_values(call), self.module, place)
        if isinstance(call.out, Tensor):
            self.records[call.out].extent = self._extent(call)

    def _rule(self, call: Call) -> Sequence[Tensor | None]:
        """Labels of what a call gives, by the rule of its operation."""
        handler = self._rules.get(call.func.overloadpacket)
        if handler is None and is_pointwise(call.func):
            handler = self._rules['pointwise']
        if handler is None:
            self._freeze_unknown(call)
            return []
        result = handler(self, call)
        return result if isinstance(result, (list, tuple)) else [result]

    def _settle(self, record: Record) -> None:
        """Labels of a computed weight that is used as something else than the weight of a layer."""
        pending, record.pending = record.pending, None
        assert pending is not None
        before = len(self.trace.costs)
        with self._watcher.inside(pending.module):
            result = self._rule(pending.call)
        del self.trace.costs[before:]  # they were counted when it ran
        labels = result[pending.place] if pending.place < len(result) else None
        if labels is not None:
            record.labels = canonical(self.store.simplify(labels))

    def _write(self, call: Call, tensor: Tensor, labels: Tensor, identities: frozenset[str]) -> None:
        if tuple(labels.shape) != tuple(tensor.shape):
            raise AssertionError(f'{call.func}: labels {tuple(labels.shape)} for a tensor {tuple(tensor.shape)}')
        labels = canonical(self.store.simplify(labels))
        known = self.records.get(tensor)
        if known is not None and not torch.equal(self.store.simplify(known.labels), labels):
            # Written in place: other views of the same memory would keep stale labels.
            sharing = self.records.sharing(tensor)
            for record in sharing:
                self.freeze(record.labels, f'{call.func} writes through a view')
            if sharing:
                self.freeze(labels, f'{call.func} writes through a view')
                self.freeze(known.labels, f'{call.func} writes through a view')
        self.records[tensor] = Record(labels, identities, lost=lost_in(self, call, labels))

    def _freeze_unknown(self, call: Call) -> None:
        for tensor in call.tensors:
            labels = self.labels(tensor)
            self.opaque(tensor, f'reaches {call.func}, for which there is no rule')
            self.freeze(labels, f'reaches {call.func}, for which there is no rule')

    def _identities(self, call: Call) -> frozenset[str]:
        """Blocks whose input still passes unchanged (sums, activations and views as other shapes keep it)."""
        tensors, packet = call.tensors, call.func.overloadpacket
        pointwise = is_pointwise(call.func) or self._rules.get(packet) is self._rules['pointwise']
        if packet not in IDENTITY_OPS | RESHAPES and not (len(tensors) == 1 and pointwise):
            return frozenset()
        found: frozenset[str] = frozenset()
        for tensor in tensors:
            record = self.records.get(tensor)
            if record is not None:
                found |= record.identities
        return found

    def _extent(self, call: Call) -> Tensor | None:
        """What the size of a result follows, where it differs from its labels."""
        record = self.records.get(call.args[0]) if call.args else None
        if record is None or record.extent is None:
            return None
        packet = call.func.overloadpacket
        if packet in RESHAPES and call.out.numel() == record.extent.numel():
            return record.extent.reshape(call.out.shape)
        if packet in MOVES:
            return call.func(record.extent, *call.args[1:], **call.kwargs)
        if call.out.shape == record.extent.shape and (packet in IDENTITY_OPS or is_pointwise(call.func)):
            return record.extent
        return None

    def _guard(self, tensor: Tensor) -> None:
        """A tensor that no visible operation made, though autograd knows where it comes from.

        Compiled extensions and custom autograd functions do not pass the
        dispatcher, or show it no more than how they allocate their output. What
        such a tensor was computed from is frozen.
        """
        node = grad_fn(tensor)
        if node is None:
            return
        for labels in self.records.sources(tensor):
            self.freeze(labels, f'reaches {node.name()}, which the dispatcher cannot see')
        self.records[tensor] = Record(no_labels(tensor.shape))


MAX_ELEMENTWISE_PARAMETER = 1 << 24
"""Parameters with more elements than this do not get a label per element."""


def _drop(saved: Tensor) -> None:
    return None


def _dropped(saved: None) -> Tensor:
    raise RuntimeError('the saved tensors of this graph were dropped')
