"""What is known of the tensors that a trace meets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..space.frozen import FreezeReason
from .computed import ComputedWeight
from .labels import MANY, compact, named
from .op_sets import Call


@dataclass
class Pending:
    """An operation whose rule waits until somebody asks for its labels: call, running module, number of the output."""

    call: Call
    module: str
    place: int


@dataclass
class Record:
    """What is known of one tensor."""

    labels: Tensor
    identities: frozenset[str] = frozenset()  # blocks whose input this tensor still carries
    extent: Tensor | None = None  # labels as they were before an adapter hid some: what the tensor's size follows
    computed: ComputedWeight | None = None  # of a tensor that is computed from parameters
    pending: Pending | None = None  # what tells its labels, once they are asked for
    lost: FreezeReason | None = None  # where the elements behind a tensor without labels were lost


class TensorRecords:
    """Records of tensors, each for as long as the network itself holds the tensor.

    Of a tensor that is gone, what autograd calls its node keeps the labels: an operation that the dispatcher cannot
    see may have read it, and is noticed only by what it gave out.
    """

    def __init__(self) -> None:
        self._records: Any = WeakTensorKeyDictionary()
        self._made: dict[tuple[Any, int], Tensor] = {}  # node and number of its output -> labels
        self._new: list[Tensor] = []
        self._loose: list[Tensor] = []

    def __getitem__(self, tensor: Tensor) -> Record:
        return self._records[tensor]

    def __setitem__(self, tensor: Tensor, record: Record) -> None:
        self._records[tensor] = record
        self._new.append(tensor)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, value: Any) -> Record | None:
        """The record of a tensor, if there is one; None of what is no tensor."""
        return self._records.get(value) if isinstance(value, Tensor) else None

    def sharing(self, tensor: Tensor) -> list[Record]:
        """Records of other tensors that show the memory of ``tensor``."""
        memory = tensor.untyped_storage().data_ptr()
        return [r for t, r in self._records.items() if t is not tensor and t.untyped_storage().data_ptr() == memory]

    def settle(self) -> None:
        """Note the nodes of the tensors met last: they are known once an operation is over."""
        for tensor in self._new:
            if not self._note(tensor) and bool(compact(self._records[tensor].labels).any()):
                # Made without gradients, as inside a custom function: it may be given a node later.
                self._loose.append(tensor)
        self._new.clear()

    def is_unseen(self, tensor: Tensor) -> bool:
        """Whether a tensor came without labels from a custom autograd function, in Python or C++."""
        node = grad_fn(tensor)
        custom = isinstance(node, torch.autograd.function.BackwardCFunction) or type(node).__name__ == 'CppFunction'
        return custom and not bool(compact(self._records[tensor].labels).any())

    def sources(self, tensor: Tensor) -> Iterator[Tensor]:
        """Labels of what ``tensor`` was computed from, as autograd knows it: the last known on every path."""
        self.settle()
        for other in [*self._loose, *self._records]:  # what was written through a view has a new node
            self._note(other)
        seen: set[Any] = set()
        queue: list[tuple[Any, int]] = [(grad_fn(tensor), tensor.output_nr)]
        while queue:
            source = queue.pop()
            if source[0] is None or source in seen:
                continue
            seen.add(source)
            if source in self._made:
                yield self._made[source]
            else:
                queue.extend(source[0].next_functions)

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
        self._made.clear()
        self._new.clear()
        self._loose.clear()

    def _note(self, tensor: Tensor) -> bool:
        """Note the node of a tensor; whether it has one."""
        node = grad_fn(tensor)
        if node is None:
            return False
        # One node makes several tensors (a split, say): what tells them apart is their number.
        if not self.is_unseen(tensor):
            labels = compact(self._records[tensor].labels)
            self._made[node, tensor.output_nr] = labels if labels.numel() <= MANY else named(labels)
        return True


def grad_fn(tensor: Tensor) -> Any:
    """The node that made a tensor; None if there is none."""
    try:
        return tensor.grad_fn
    except RuntimeError:
        # A scratch view inside a custom function, written to after it was taken without gradients.
        return None
