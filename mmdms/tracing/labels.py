"""Label tensors: which channel element does each position of a tensor carry?

A *label* is a positive integer that stands for one channel element (one output
channel of one layer); 0 means that the position belongs to none. A label tensor
has the shape of the tensor that it describes. Nearly always it varies along one
dimension only, so constant dimensions are kept as stride-0 expansions and the
label work of a convolutional network does not depend on its resolution.

Where channels are laid out as heads times width, a label is declared to be the
*product* of two others: position ``(h, d)`` stays if head ``h`` and width
element ``d`` both stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..space.frozen import FreezeReason


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


def lies_along(labels: Tensor, dim: int) -> bool:
    """Whether canonical labels differ along ``dim`` in what they are, and along other dimensions, if so, in name only.

    Tokens of a stream that are made by different layers have labels of their own, until a sum or a norm unifies them.
    """
    varying = varying_dims(labels)
    apart = [other for other in varying if _apart(compact(labels), other)] if len(varying) > 1 else varying
    return apart == [dim]


def _apart(labels: Tensor, dim: int) -> bool:
    """Whether no two positions along ``dim`` share a label."""
    rows = labels.movedim(dim, 0).reshape(labels.size(dim), -1).sort(1)[0]
    found = rows[(rows > 0) & torch.cat([torch.ones_like(rows[:, :1], dtype=torch.bool), rows.diff() != 0], 1)]
    return len(found) == len(torch.unique(found))


def named(labels: Tensor) -> Tensor:
    """Every element that a tensor of labels names, once, in ascending order, shape (elements,)."""
    narrow = compact(labels)
    if narrow.numel() <= MANY:
        found = torch.unique(narrow)
        return found[found > 0]
    met = torch.zeros(int(narrow.max()) + 1, dtype=torch.bool)  # sorting would take longer
    met[narrow] = True
    met[0] = False
    return met.nonzero().flatten()


MANY = 1 << 14
"""Tensors of more labels than this take part in a trace's memory and time."""


@dataclass(frozen=True)
class Classes:
    """Labels resolved: labels of one class move together.

    Attributes:
        of_label: class of every label, shape (labels,).
        factors: the one or two classes that must all stay for a class to stay,
            shape (classes, 2). A class that is no product is its own first
            factor; -1 in second place stands for none.
        frozen: labels with the reason why they stay, those of clashing products included.
    """

    of_label: np.ndarray
    factors: np.ndarray
    frozen: list[tuple[Tensor, FreezeReason]]

    def of(self, labels: Tensor) -> np.ndarray:
        """Classes of a tensor of labels, of its shape."""
        return self.of_label[labels.numpy()]

    def elements(self, labels: Tensor) -> np.ndarray:
        """Factors of every label of a vector, shape (n, 1), or (n, 2) if any is a product."""
        found = self.factors[self.of(labels)]
        return found if (found[:, 1] >= 0).any() else found[:, :1]


class LabelStore:
    """Hands out labels and remembers which must move together and which are frozen.

    Unions form a forest, in which labels lead to lower labels of the same element.
    What hangs on several of them is settled by :meth:`resolve`, all at once, so a
    trace stays about linear in the number of operations.
    """

    def __init__(self) -> None:
        self._count = 1  # label 0 is «no element»
        # Per label a lower one of the same element, or the label itself.
        self._leader = torch.zeros(1 << 12, dtype=torch.int64)
        self._frozen: list[tuple[Tensor, FreezeReason]] = []
        self._products: list[Tensor] = []  # each (3, n): a label and its two factors
        self._even: list[Tensor] = []  # each (rows, n): its rows lose equally many elements
        self._inside: list[Tensor] = []  # each (2, n): a factor and the product that it must be a factor of

    def fresh(self, count: int) -> Tensor:
        """Return ``count`` labels never used before, shape (count,)."""
        labels = torch.arange(self._count, self._count + count)
        self._count += count
        if self._count > len(self._leader):
            self._leader = torch.cat([self._leader, self._leader.new_zeros(max(self._count, len(self._leader)))])
        self._leader[labels] = labels
        return labels

    def simplify(self, labels: Tensor) -> Tensor:
        """Labels of the same elements, equal where two are already known to be one element.

        It keeps label tensors simple (tokens that were added to one stream carry
        the labels of that stream), but not every union shows: :meth:`resolve` does.
        """
        return _lead(self._leader, compact(labels)).expand(labels.shape)

    def unify(self, a: Tensor, b: Tensor) -> None:
        """State that labels at equal positions (after broadcasting) are one element."""
        _unite(self._leader, compact(a), compact(b))

    def even(self, table: Tensor) -> None:
        """State that all rows of a table (rows, n) of labels lose equally many elements.

        Settled when labels are resolved: where other unions do not make it
        so, elements of several rows are unified.
        """
        self._even.append(table)

    def freeze(self, labels: Tensor, reason: FreezeReason) -> None:
        """State that these elements cannot be removed, and why."""
        elements = named(labels)
        if elements.numel():
            self._frozen.append((elements, reason))

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """Labels per index of ``dim``, shape (labels.size(dim),).

        Positions that share an index and carry different labels are unified:
        whoever slices this dimension removes them together. An index that
        carries elements at some positions and none at others keeps the element.
        """
        size = labels.size(dim)
        columns = compact(labels).movedim(dim, 0)
        columns = columns.reshape(len(columns), -1)
        first = columns.amax(1) if columns.size(1) > 1 else columns[:, 0]
        if columns.size(1) > 1:
            self.unify(first[:, None], columns)
        return first.expand(size)

    def compose(self, labels: Tensor, first: Tensor, second: Tensor) -> None:
        """State that ``labels`` (n, m) are products of ``first`` (n,) and ``second`` (m,)."""
        grid = torch.broadcast_tensors(labels, first[:, None], second[None, :])
        known = labels > 0
        self._products.append(torch.stack([part[known] for part in grid]))

    def factors_of(self, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Both factors of products, each of the shape of ``labels``; None if some label is no product."""
        table = _joined(self._products, 3)
        table[0], labels = self.simplify(table[0]), self.simplify(labels)
        order = table[0].argsort(stable=True)  # of a label declared to be several products, always the first
        if not order.numel():
            return None
        place = torch.searchsorted(table[0][order], labels.contiguous()).clamp(max=order.numel() - 1)
        if not bool((table[0][order][place] == labels).all()):
            return None
        return table[1][order][place], table[2][order][place]

    def inside(self, part: Tensor, whole: Tensor) -> None:
        """State that every label of ``whole`` is a product with the label of ``part`` at its position as a factor.

        Checked when labels are resolved; where it does not hold, both freeze.
        """
        part, whole = torch.broadcast_tensors(compact(part), compact(whole))
        known = (part > 0) & (whole > 0)
        self._inside.append(torch.unique(torch.stack([part[known], whole[known]]), dim=1))

    def resolve(self) -> Classes:
        """Settle all unions and products."""
        leader, products = self._leader[: self._count].clone(), _joined(self._products, 3)
        of_label = _classes(leader)
        while True:  # ends, as every pass unites classes
            for table in self._even:
                for first, second in _evened(table, of_label):
                    _unite(leader, first, second)
            for first, second in _factors_of_one_class(of_label, products):
                _unite(leader, first, second)
            again = _classes(leader)
            if again.max() == of_label.max():
                break
            of_label = again
        factors = np.stack([np.arange(of_label.max() + 1), np.full(of_label.max() + 1, -1)], axis=1)
        whole, first, second = of_label[products.numpy()]
        factors[whole] = np.stack([first, second], axis=1)
        frozen = list(self._frozen)
        nested = np.isin(np.concatenate([first, second]), whole)
        if nested.any():
            labels = torch.cat([products[1], products[2]])[torch.from_numpy(nested)]
            frozen.append((labels, FreezeReason('', 'is divided into heads in two ways that do not fit each other')))
            factors[whole] = np.stack([whole, np.full_like(whole, -1)], axis=1)
        part, around = of_label[_joined(self._inside, 2).numpy()]
        outside = torch.from_numpy((factors[around] != part[:, None]).all(1))
        if bool(outside.any()):
            labels = _joined(self._inside, 2)[:, outside].flatten()
            frozen.append((labels, FreezeReason('', 'is multiplied by heads that it is not divided into')))
        return Classes(of_label, factors, frozen)


def _lead(leader: Tensor, labels: Tensor) -> Tensor:
    """The lowest label that each one leads to."""
    found = leader[labels]
    while not torch.equal(found, labels):
        labels, found = found, leader[found]
    return found


def _unite(leader: Tensor, a: Tensor, b: Tensor) -> None:
    """Have labels at equal positions (after broadcasting) lead to one label, in place; 0 is with nobody."""
    a, b = torch.broadcast_tensors(_lead(leader, a), _lead(leader, b))
    while True:
        different = (a != b) & (a > 0) & (b > 0)
        if not bool(different.any()):
            return
        if a.numel() <= MANY:
            low, high = torch.minimum(a, b)[different], torch.maximum(a, b)[different]
        else:  # to select among many takes longer than to have the others lead 0 to 0
            low, high = (torch.minimum(a, b) * different).flatten(), (torch.maximum(a, b) * different).flatten()
        leader.scatter_reduce_(0, high, low, 'amin')
        # A label that met several has been led to the lowest; the others come next.
        low, after = _lead(leader, low), _lead(leader, high)
        rest = low != after
        a, b = low[rest], after[rest]


def _classes(leader: Tensor) -> np.ndarray:
    """Number of the class of every label, in order of their lowest labels."""
    lowest = _lead(leader, torch.arange(len(leader)))
    return np.unique(lowest.numpy(), return_inverse=True)[1]


def _joined(listed: list[Tensor], rows: int) -> Tensor:
    return torch.cat([torch.zeros(rows, 0, dtype=torch.int64), *listed], dim=1)


def _evened(table: Tensor, of_label: np.ndarray) -> list[Tensor]:
    """Pairs that make rows of a table (rows, n) lose equally many elements, each (2, n).

    A class that every row holds equally often is left as it is. What remains is
    as long in every row, and unified in its order.
    """
    classes = of_label[table.numpy()]
    found, place = np.unique(classes, return_inverse=True)
    counts = np.stack([np.bincount(row, minlength=len(found)) for row in place.reshape(classes.shape)])
    uneven = torch.from_numpy(~(counts == counts[:1]).all(0)[place.reshape(classes.shape)])
    rest = table[uneven].view(len(table), -1)
    return [torch.stack([rest[0], row]) for row in rest[1:]]


def _factors_of_one_class(of_label: np.ndarray, products: Tensor) -> list[Tensor]:
    """Pairs of factors that are one because their products are, each (2, n)."""
    order = np.argsort(of_label[products[0].numpy()], kind='stable')
    whole = of_label[products[0].numpy()][order]
    same = torch.from_numpy(np.flatnonzero(whole[1:] == whole[:-1]))
    ordered = products[:, torch.from_numpy(order)]
    return [torch.stack([ordered[row][same], ordered[row][same + 1]]) for row in (1, 2)]
