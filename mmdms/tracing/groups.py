"""Groups of elements that live in the same places of a network: its units, but for those of depth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .elements import Elements


@dataclass(frozen=True)
class Group:
    """Classes of labels that one keep ratio can search; ``name`` and ``kind`` are those of its unit."""

    name: str
    kind: str
    members: list[int]


def find_groups(elements: Elements, candidates: set[int]) -> list[Group]:
    """Group classes with the same places and multiplicities, in order of appearance."""
    trace, classes = elements.trace, elements.classes
    vectors = [axis.labels for axis in trace.axes.values()]
    vectors += [labels for term in trace.costs for labels in term.axes]
    vectors += [mask.labels for mask in trace.inner.values()]
    # A module that divides its channels by an attribute may not survive that one part is empty.
    vectors += [size.labels for size in trace.sizes.values()]
    wanted = np.zeros(len(classes.factors) + 1, dtype=bool)  # class -1, no factor, is the last
    wanted[list(candidates)] = True
    rows = []  # of class, vector, and how often it occurs there
    for index, labels in enumerate(vectors):
        members, counts = np.unique(classes.elements(labels), return_counts=True)
        found = np.stack([members, np.full_like(members, index), counts], axis=1)
        rows.append(found[wanted[members]].astype(np.int32))
    table = np.concatenate([np.zeros((0, 3), dtype=np.int32), *rows])
    table = table[np.argsort(table[:, 0], kind='stable')]
    first_label = np.unique(classes.of_label, return_index=True)[1]
    found, begins = np.unique(table[:, 0], return_index=True)
    ends = np.append(begins[1:], len(table))
    kinds = elements.stated_kinds
    groups: dict[tuple[str, bytes], list[int]] = {}
    for place in np.argsort(first_label[found]):
        member = int(found[place])
        kind = kinds.get(member, ['channels'])[0]  # those of several kinds are frozen
        places = table[begins[place] : ends[place], 1:].tobytes()
        groups.setdefault((kind, places), []).append(member)
    of_class = elements.names()
    names: Counter[str] = Counter()
    result: list[Group] = []
    for (kind, _), grouped in groups.items():
        name = of_class[grouped[0]]
        names[name] += 1
        result.append(Group(name if names[name] == 1 else f'{name}#{names[name]}', kind, grouped))
    return result
