"""Label tensors: which channel element does each position of a tensor carry?

A *label* is a positive integer that stands for one channel element (one output
channel of one layer); 0 means that the position belongs to none. A label tensor
has the shape of the tensor that it describes. Nearly always it varies along one
dimension only, so constant dimensions are kept as stride-0 expansions and the
label work of a convolutional network does not depend on its resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor


@dataclass(frozen=True)
class FreezeReason:
    """Why some elements cannot be searched: the module, and what was met there."""

    module: str
    reason: str


@dataclass
class Frozen:
    """Elements that cannot be searched, with the reason."""

    module: str
    reason: str
    elements: int


def no_labels(shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Labels of a tensor that carries no channel element."""
    return torch.zeros((), dtype=torch.int64).expand(shape)


def canonical(labels: Tensor) -> Tensor:
    """Return equal labels in which every constant dimension has stride 0."""
    narrow = compact(labels)
    for dim, _ in sorted(enumerate(narrow.shape), key=lambda item: -item[1]):
        if narrow.size(dim) > 1:
            first = narrow.narrow(dim, 0, 1)
            if bool((narrow == first).all()):
                narrow = first
    return narrow.expand(labels.shape)


def compact(labels: Tensor) -> Tensor:
    """Narrow every stride-0 dimension to size 1 (what remains broadcasts back)."""
    for dim in range(labels.dim()):
        if labels.size(dim) > 1 and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels


def varying_dims(labels: Tensor) -> list[int]:
    """Dimensions along which canonical labels are not constant."""
    return [dim for dim, size in enumerate(compact(labels).shape) if size > 1]


class LabelStore:
    """Hands out labels and remembers which must move together and which are frozen.

    Unions are only collected while tracing; :meth:`classes` resolves them all
    at once, so a trace stays about linear in the number of operations.
    """

    def __init__(self) -> None:
        self._count = 1  # label 0 is «no element»
        self._pairs: list[Tensor] = []
        self._frozen: list[tuple[Tensor, FreezeReason]] = []

    def fresh(self, count: int) -> Tensor:
        """Return ``count`` labels never used before, shape (count,)."""
        labels = torch.arange(self._count, self._count + count)
        self._count += count
        return labels

    def unify(self, a: Tensor, b: Tensor) -> None:
        """State that labels at equal positions (after broadcasting) are one element."""
        a, b = torch.broadcast_tensors(compact(a), compact(b))
        different = (a != b) & (a > 0) & (b > 0)
        if bool(different.any()):
            self._pairs.append(torch.unique(torch.stack([a[different], b[different]]), dim=1))

    def freeze(self, labels: Tensor, reason: FreezeReason) -> None:
        """State that these elements cannot be removed, and why."""
        named = torch.unique(compact(labels))
        named = named[named > 0]
        if named.numel():
            self._frozen.append((named, reason))

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """Labels per index of ``dim``, shape (labels.size(dim),).

        Positions that share an index and carry different labels are unified:
        whoever slices this dimension removes them together. An index that
        carries elements at some positions and none at others keeps the element.
        """
        size = labels.size(dim)
        columns = compact(labels).movedim(dim, 0).flatten(1)
        first = columns.amax(1) if columns.size(1) > 1 else columns[:, 0]
        if columns.size(1) > 1:
            self.unify(first[:, None], columns)
        return first.expand(size)

    def classes(self) -> np.ndarray:
        """Class of every label, shape (labels,); labels of one class are one element."""
        if not self._pairs:
            return np.arange(self._count)
        pairs = torch.cat(self._pairs, dim=1).numpy()
        graph = coo_array((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(self._count,) * 2)
        return connected_components(graph, directed=False)[1]

    @property
    def frozen(self) -> list[tuple[Tensor, FreezeReason]]:
        """Frozen labels with their reasons, in the order they were met."""
        return self._frozen
