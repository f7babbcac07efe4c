"""Run a network once and follow every channel element through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

from .geometry import COSTED, work
from .hints import tracing
from .labels import FreezeReason, LabelStore, canonical, compact, no_labels
from .parameters import ParameterIndex
from .records import Axis, BlockCall, CostTerm, Operation, Trace


@dataclass
class Record:
    """What is known of one tensor met while tracing."""

    tensor: Tensor  # kept alive: its id is the key, and its grad_fn may be asked for
    labels: Tensor
    identities: frozenset[str] = frozenset()  # blocks whose input this tensor still carries
    extent: Tensor | None = None  # labels as they were before an adapter hid some: what the tensor's size follows


@dataclass
class Call:
    """One operation as the dispatcher shows it."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in order."""
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Tensor)]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or keyword."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


Rule = Callable[['Tracer', Call], Any]
RULES: dict[Any, Rule] = {}


def rule(*ops: Any) -> Callable[[Rule], Rule]:
    """Register how labels pass through some aten operations (all their overloads)."""

    def register(function: Rule) -> Rule:
        for op in ops:
            RULES[op] = function
        return function

    return register


def is_pointwise(func: Any) -> bool:
    """Whether PyTorch tags an operation, or the operation that it does in place, as pointwise."""
    if torch.Tag.pointwise in func.tags:
        return True
    name = func.overloadpacket.__name__
    namespace = getattr(torch.ops, func.namespace)
    # Half of the in-place operations, hardtanh_ (ReLU6) among them, lack the tag of their plain form.
    plain = getattr(namespace, name[:-1], None) if name.endswith('_') else None
    return plain is not None and any(
        torch.Tag.pointwise in getattr(plain, overload).tags for overload in plain.overloads()
    )


class Tracer(TorchDispatchMode):
    """Dispatch mode that keeps labels beside every tensor.

    Rules (see :mod:`mmdms.tracing.rules`) tell how labels pass through each
    operation. An operation without a rule freezes the labels that reach it, so
    an unknown operation costs coverage, never correctness.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.trace = Trace(LabelStore())
        self.store = self.trace.store
        self.parameters = ParameterIndex(model)
        self._model = model
        self._records: dict[int, Record] = {}
        self._path: list[str] = []
        self._calls: Counter[str] = Counter()

    # ---- what rules ask and say -------------------------------------------------

    @property
    def module(self) -> str:
        """Dotted name of the module that is running."""
        return self._path[-1] if self._path else ''

    def labels(self, tensor: Tensor) -> Tensor:
        """Labels of ``tensor``, of its shape."""
        record = self._records.get(id(tensor))
        if record is not None and not _is_unseen(record):
            return record.labels
        if self.parameters.owner(tensor) is None:
            self._guard(tensor)
        return no_labels(tensor.shape)

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

    def opaque(self, tensor: Tensor, reason: str) -> None:
        """State that an operation uses a parameter in a way that nobody here understands: it keeps its size."""
        owner = self.parameters.owner(tensor)
        if owner is not None:
            self.trace.opaque.setdefault(owner[0], FreezeReason(self.module, f'parameter {owner[0]} {reason}'))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Freeze elements, naming the running module."""
        self.store.freeze(labels, FreezeReason(self.module, reason))

    def axis(self, parameter: str, dim: int, labels: Tensor, role: str) -> None:
        """State that dimension ``dim`` of ``parameter`` follows ``labels``."""
        known = self.trace.axes.get((parameter, dim))
        if known is None:
            self.trace.axes[parameter, dim] = Axis(parameter, dim, labels, role, parameter.rpartition('.')[0])
            return
        # A weight used by several calls is one weight: what it sees unifies over the calls.
        self.store.unify(known.labels, labels)
        lonely = (known.labels == 0) != (labels == 0)
        if bool(lonely.any()):
            reason = f'{parameter} is used by several calls, some with a fixed size'
            self.freeze(torch.cat([known.labels[lonely], labels[lonely]]), reason)
        if known.role != role:
            reason = f'{parameter} is used both as {known.role!r} and as {role!r}'
            self.freeze(torch.cat([known.labels, labels]), reason)

    def known_axis(self, parameter: str, dim: int) -> Tensor | None:
        """Labels of a parameter's dimension if an earlier call fixed them."""
        axis = self.trace.axes.get((parameter, dim))
        return axis.labels if axis is not None else None

    def extent(self, tensor: Tensor) -> Tensor:
        """Labels that the size of ``tensor`` follows, hidden ones included, of its shape."""
        record = self._records.get(id(tensor))
        return self.labels(tensor) if record is None or record.extent is None else record.extent

    def alias(self, tensor: Tensor, labels: Tensor) -> Tensor:
        """The same values as a tensor of its own, with other labels."""
        with _disable_current_modes(), torch.enable_grad():  # a later guard must find its way back
            other = tensor.view_as(tensor)
        known = self._records.get(id(tensor))
        labels = canonical(labels)
        if known is None:
            self._records[id(other)] = Record(other, labels)
        else:
            self._records[id(other)] = Record(other, labels, known.identities, self.extent(tensor))
        return other

    def state(self, tensor: Tensor, labels: Tensor) -> None:
        """Labels of a tensor that an operation made which the dispatcher cannot see."""
        self._records[id(tensor)] = Record(tensor, canonical(labels))

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

    def run(self, forward: Callable[..., Any], inputs: Sequence[Any]) -> Trace:
        """Call ``forward(*inputs)`` under this mode and return what was learnt."""
        with ExitStack() as stack:
            for name, module in self._model.named_modules():
                handles = self._watch(name, module)
                for handle in handles:
                    stack.callback(handle.remove)
            stack.enter_context(torch.enable_grad())
            stack.enter_context(tracing(self))
            stack.enter_context(self)
            outputs = forward(*inputs)
        for leaf in tree_flatten(outputs)[0]:
            if isinstance(leaf, Tensor):
                self.freeze(self.labels(leaf), 'reaches an output of the network')
        for name, block in self.trace.blocks.items():
            if self._calls[name] > 1:
                block.problem = f'is called {self._calls[name]} times'
        self._records.clear()
        return self.trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        call = Call(func, args, kwargs, out)
        # Labels are tensors too: the work on them must not be traced (the mode is off inside its own handler).
        with torch.no_grad():
            self._follow(call)
        return out

    def _follow(self, call: Call) -> None:
        packet = call.func.overloadpacket
        handler = RULES.get(packet)
        if handler is None and is_pointwise(call.func):
            handler = RULES['pointwise']
        if handler is None:
            self._freeze_unknown(call)
            result = None
        else:
            before = len(self.trace.costs)
            result = handler(self, call)
            if packet in COSTED:
                costs = range(before, len(self.trace.costs))
                self.trace.operations.append(Operation(packet, work(packet, call.args, call.out), costs))
        if not isinstance(result, (list, tuple)):
            result = [result]
        identities = self._identities(call)
        outputs = tree_flatten(call.out)[0]
        padded = [*result, *[None] * (len(outputs) - len(result))]
        for tensor, labels in zip(outputs, padded, strict=False):
            if isinstance(tensor, Tensor):
                self._write(call, tensor, no_labels(tensor.shape) if labels is None else labels, identities)
        if isinstance(call.out, Tensor):
            self._records[id(call.out)].extent = self._extent(call)

    def _write(self, call: Call, tensor: Tensor, labels: Tensor, identities: frozenset[str]) -> None:
        if tuple(labels.shape) != tuple(tensor.shape):
            raise AssertionError(f'{call.func}: labels {tuple(labels.shape)} for a tensor {tuple(tensor.shape)}')
        labels = canonical(self.store.simplify(labels))
        known = self._records.get(id(tensor))
        if known is not None and not torch.equal(self.store.simplify(known.labels), labels):
            # Written in place: other views of the same memory would keep stale labels.
            sharing = [r for r in self._records.values() if r is not known and _share_memory(r.tensor, tensor)]
            for record in sharing:
                self.freeze(record.labels, f'{call.func} writes through a view')
            if sharing:
                self.freeze(labels, f'{call.func} writes through a view')
                self.freeze(known.labels, f'{call.func} writes through a view')
        self._records[id(tensor)] = Record(tensor, labels, identities)

    def _freeze_unknown(self, call: Call) -> None:
        for tensor in call.tensors:
            labels = self.labels(tensor)
            self.opaque(tensor, f'reaches {call.func}, for which there is no rule')
            self.freeze(labels, f'reaches {call.func}, for which there is no rule')

    def _identities(self, call: Call) -> frozenset[str]:
        """Blocks whose input still passes unchanged (sums and activations keep it)."""
        tensors, packet = call.tensors, call.func.overloadpacket
        pointwise = is_pointwise(call.func) or RULES.get(packet) is RULES['pointwise']
        if packet not in IDENTITY_OPS and not (len(tensors) == 1 and pointwise):
            return frozenset()
        found: frozenset[str] = frozenset()
        for tensor in tensors:
            record = self._records.get(id(tensor))
            if record is not None:
                found |= record.identities
        return found

    def _extent(self, call: Call) -> Tensor | None:
        """What the size of a result follows, where it differs from its labels."""
        record = self._records.get(id(call.args[0])) if call.args else None
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
        node = _grad_fn(tensor)
        if node is None:
            return
        # One node makes several tensors (a split, say): what tells them apart is their number.
        nodes = [(r, _grad_fn(r.tensor)) for r in self._records.values()]
        made_by = {(made, r.tensor.output_nr): r for r, made in nodes if made is not None and not _is_unseen(r)}
        seen: set[Any] = set()
        queue: list[tuple[Any, int]] = [(node, tensor.output_nr)]
        while queue:
            source = queue.pop()
            if source[0] is None or source in seen:
                continue
            seen.add(source)
            record = made_by.get(source)
            if record is not None:
                self.freeze(record.labels, f'reaches {node.name()}, which the dispatcher cannot see')
            else:
                queue.extend(source[0].next_functions)
        self._records[id(tensor)] = Record(tensor, no_labels(tensor.shape))

    # ---- modules ----------------------------------------------------------------

    def _watch(self, name: str, module: nn.Module) -> list[Any]:
        parent = self._model.get_submodule(name.rpartition('.')[0]) if '.' in name else self._model
        # Blocks stand in a container, or side by side with a number in their name (``layer1``, ``layer2``).
        in_row = name != '' and (isinstance(parent, (nn.Sequential, nn.ModuleList)) or name[-1].isdigit())
        entered: list[list[tuple[Record, int] | None]] = []  # per argument its record and version

        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._path.append(name)
            self._calls[name] += 1
            entries: list[tuple[Record, int] | None] = []
            for place, given in enumerate(args if in_row else ()):
                record = self._records.get(id(given)) if isinstance(given, Tensor) else None
                if record is not None:
                    record.identities |= {_stream(name, place)}
                entries.append(None if record is None else (record, given._version))
            entered.append(entries)

        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                with _disable_current_modes():
                    self.labels(output)  # an invisible operation is reported under the module that ran it
            self._path.pop()
            entries = entered.pop()
            if entries:
                self._note_block(name, entries, args, output)

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        ]

    def _note_block(
        self, name: str, entries: list[tuple[Record, int] | None], args: tuple[Any, ...], output: Any
    ) -> None:
        handed_on = output if isinstance(output, tuple) else (output,)
        streams, identity, problem = [], True, None
        for place, result in enumerate(handed_on[: len(args)]):
            entry = entries[place]
            if not isinstance(result, Tensor):
                if not _plain(args[place]) or not _plain(result) or args[place] != result:
                    return
                continue
            record = self._records.get(id(result))
            if entry is None or record is None or result.shape != entry[0].tensor.shape:
                return
            streams.append((entry[0].labels, record.labels))
            identity = identity and _stream(name, place) in record.identities
            if entry[0].tensor._version != entry[1]:
                problem = 'writes into its own input'
        if not streams or len(handed_on) > len(args):
            return
        (before, after), *others = streams
        block = BlockCall(name, before, after, identity, problem, tuple(others), len(handed_on))
        self.trace.blocks.setdefault(name, block)


def _plain(value: Any) -> bool:
    """Whether a value is of numbers alone (the shape of a map, say), and so can be compared."""
    return all(leaf is None or isinstance(leaf, (int, float, str)) for leaf in tree_flatten(value)[0])


def _stream(block: str, place: int) -> str:
    """Names what a block was given in some place; what it was given first bears its own name."""
    return f'{block}:{place}' if place else block


MAX_ELEMENTWISE_PARAMETER = 1 << 24
"""Parameters with more elements than this do not get a label per element."""

RESHAPES = {torch.ops.aten.view, torch.ops.aten._unsafe_view, torch.ops.aten.reshape, torch.ops.aten._reshape_alias}
MOVES = {torch.ops.aten.permute, torch.ops.aten.transpose, torch.ops.aten.t, torch.ops.aten.expand,
         torch.ops.aten.unsqueeze, torch.ops.aten.squeeze, torch.ops.aten.select, torch.ops.aten.slice}  # fmt: skip
"""Operations that a size passes through."""

IDENTITY_OPS = {
    torch.ops.aten.add,
    torch.ops.aten.add_,
    torch.ops.aten.clone,
    torch.ops.aten.detach,
    torch.ops.aten.alias,
}
"""Operations whose result still contains each operand as it was."""


def _grad_fn(tensor: Tensor) -> Any:
    """The node that made a tensor; None if there is none."""
    try:
        return tensor.grad_fn
    except RuntimeError:
        # A scratch view inside a custom function, written to after it was taken without gradients.
        return None


def _is_unseen(record: Record) -> bool:
    """Whether a tensor came without labels from a custom autograd function, in Python or C++."""
    node = _grad_fn(record.tensor)
    custom = isinstance(node, torch.autograd.function.BackwardCFunction) or type(node).__name__ == 'CppFunction'
    return custom and not bool(compact(record.labels).any())


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def trace(model: nn.Module, inputs: Sequence[Any], forward: Callable[..., Any] | None = None) -> Trace:
    """Trace ``model`` on an example input.

    Args:
        model: any module, in the mode (train or eval) that should be traced.
        inputs: positional arguments of the call, batch size 1, any values.
        forward: what to call; the model itself if None.

    Returns:
        Axes of parameters, cost terms, block calls and frozen labels.
    """
    from . import rules  # noqa: F401  (registers the rules; they import this module)

    return Tracer(model).run(forward or model, inputs)
