"""Which elements stay, and the report of why."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..mutables import kind_of
from ..space.frozen import FreezeReason, Frozen
from .elements import Elements
from .groups import Group

NOWHERE = -1
"""Row of what has no reason to stay."""

TOGETHER = 'its {} channels can only go or stay together'

ENTRIES = 'reads or follows entries of a parameter or buffer, which no layer outputs'

SINGLE = 'is a single {}, and one must stay'


class FrozenReport:
    """Reasons why something stays, each with the number of elements that it holds.

    An element counts once, under the first reason that is found for it. Where a trace followed no element, positions
    of dimensions of parameters count.
    """

    def __init__(self) -> None:
        self._counts: dict[FreezeReason, int] = {}
        self._places: dict[FreezeReason, int] = {}
        self._of_elements: dict[FreezeReason, None] = {}  # in order

    @property
    def rows(self) -> list[Frozen]:
        """The report, in the order in which the reasons were found."""
        return [Frozen(reason.module, reason.reason, count) for reason, count in self._counts.items()]

    def add_elements(self, reason: FreezeReason, count: int) -> int:
        """Count elements under a reason; returns its row."""
        self._of_elements[reason] = None
        return self._add(reason, count)

    def add_positions(self, reason: FreezeReason, count: int) -> int:
        """Count positions under a reason, unless it holds elements, which the positions follow; returns its row."""
        known = self._known(reason)
        return self._add(reason, count) if known is None else self._places[known]

    def add_followers(self, reason: FreezeReason, count: int) -> int:
        """The row of a reason; positions of layers that follow count only where nothing else is listed under it."""
        return self.add_positions(reason, 0 if reason in self._counts else count)

    def add_parameter(self, name: str, reason: FreezeReason, count: int) -> int:
        """As ``add_positions``, for a reason that concerns one parameter: that of its module where there is one."""
        text = reason.reason.removeprefix(f'parameter {name} ')
        of_module = FreezeReason(reason.module, text)
        unnamed = self._known(of_module) is not None or (text.startswith('reaches') and self._known(reason) is None)
        return self.add_positions(of_module if unnamed else reason, count)

    def _known(self, reason: FreezeReason) -> FreezeReason | None:
        """The reason under which elements are listed; those met outside of all modules are under their holders."""
        if reason.module or reason in self._of_elements:
            return reason if reason in self._of_elements else None
        return next((known for known in self._of_elements if known.reason == reason.reason), None)

    def _add(self, reason: FreezeReason, count: int) -> int:
        self._counts[reason] = self._counts.get(reason, 0) + count
        return self._places.setdefault(reason, len(self._places))


class FrozenElements:
    """Decides which classes of a trace stay.

    Attributes:
        classes: those that stay, that of label 0 among them.
        row: per class the row of the report that says why; ``NOWHERE`` for those that are searched. One more at
            the end stands for class -1.
    """

    def __init__(self, elements: Elements, selects: Callable[[str], bool]) -> None:
        self.elements = elements
        self.report = FrozenReport()
        self.classes: set[int] = {int(elements.classes.of_label[0])}
        self.row = np.full(len(elements.classes.factors) + 1, NOWHERE, dtype=np.int64)
        self._freeze_what_was_said()
        self._freeze_left_out(selects)
        self._freeze_unread()
        self._freeze_not_produced()
        self._freeze_of_two_kinds()

    def freeze(self, members: Iterable[int], reason: FreezeReason) -> None:
        """Have classes stay. A reason without a module is that of the module that holds the class."""
        for member in sorted(set(members) - self.classes):
            holder = self.elements.holders.get(member)
            if holder is not None:  # of no parameter: a number of heads, say, that nothing was divided into
                self.row[member] = self.report.add_elements(FreezeReason(reason.module or holder, reason.reason), 1)
            self.classes.add(member)

    def freeze_single(self, group: Group) -> None:
        """Have the one element of a group stay, as a unit keeps one; it counts for all positions that it has."""
        (member,) = group.members
        outputs = [axis for axis in self.elements.trace.axes.values() if axis.produces]
        counts = [(self.elements.classes.elements(axis.labels) == member).any(1).sum() for axis in outputs]
        kind = kind_of(group.kind)
        count = 1 if kind.counted_by_attribute else max(1, *map(int, counts))
        said = TOGETHER.format(count) if count > 1 else SINGLE.format(kind.noun)
        self.classes.add(member)
        self.row[member] = self.report.add_elements(FreezeReason(group.name, said), count)

    def _freeze_what_was_said(self) -> None:
        for labels, reason in self.elements.frozen_labels:
            self.freeze(self.elements.factors(labels), reason)

    def _freeze_left_out(self, selects: Callable[[str], bool]) -> None:
        for axis in self.elements.trace.axes.values():
            if axis.produces and not selects(axis.module):
                reason = FreezeReason(axis.module, 'is left out by include and exclude patterns')
                self.freeze(self.elements.factors(axis.labels), reason)

        for member, module in self.elements.begun().items():
            if not selects(module):
                self.freeze([member], FreezeReason(module, 'is left out by include and exclude patterns'))

    def _freeze_unread(self) -> None:
        """Elements that no weight reads: a mask could not remove them."""
        unread = set(self.elements.producers) - self.elements.removable()
        for axis in self.elements.trace.axes.values():
            if axis.produces:
                members = self.elements.factors(axis.labels) & unread
                self.freeze(members, FreezeReason(axis.module, 'its channels are read by no weight'))
        for member, module in self.elements.begun().items():
            if member in unread:
                self.freeze([member], FreezeReason(module, 'its elements are read by no weight'))

    def _freeze_not_produced(self) -> None:
        """Elements that no layer outputs: queries that are learnt, a table of positions."""
        members = set(self.elements.holders) - self.elements.producers.keys()
        self.freeze(members, FreezeReason('', ENTRIES))

    def _freeze_of_two_kinds(self) -> None:
        """Elements that adapters state to be of several kinds, each of which has rules of its own."""
        for member, kinds in self.elements.stated_kinds.items():
            if len(kinds) > 1:
                self.freeze([member], FreezeReason('', f'is stated to be of several kinds: {", ".join(kinds)}'))
