"""Build a search space from what a trace wrote down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..budgets.cost_table import CostTable, CostTableBuilder
from ..structure import UnitInfo
from .depth import find_runs
from .labels import FreezeReason, Frozen
from .patterns import Patterns
from .records import Axis, Trace
from .search_space import FIXED, ModuleMask, ModuleSize, ParameterAxis, SearchSpace

FUSED = 'branch or norm that a deployment fuses'


class SearchSpaceBuilder:
    """Turns a trace into a search space."""

    def __init__(
        self, model: nn.Module, trace: Trace, include: Iterable[str] = ('*',), exclude: Iterable[str] = ()
    ) -> None:
        self.model = model
        self.trace = trace
        self.patterns = Patterns(include, exclude)
        self.classes = trace.store.resolve()
        self.frozen_labels = list(self.classes.frozen)
        self._settle_elementwise()

    def build(self) -> SearchSpace:
        """Group elements into units and count what they cost."""
        frozen, reasons = self._frozen_classes()
        groups = self._group((self._with_role('out') & self._removable()) - frozen)
        runs, problems = find_runs(self.trace, self.classes.of_label, self.patterns)
        self.patterns.check_used()

        units: list[UnitInfo] = []
        element = np.full(len(self.classes.factors) + 1, FIXED, dtype=np.int64)  # class -1, no factor, is the last
        count = 0
        for name, kind, members in groups:
            element[members] = np.arange(count, count + len(members))
            count += len(members)
            units.append(UnitInfo(name, kind, len(members)))
        blocks: dict[int, tuple[str, ...]] = {}
        taken = {unit.name for unit in units}
        for container, run in runs:
            name = f'{container}#blocks' if container in taken else container
            for group in run:
                blocks[count] = group
                count += 1
            units.append(UnitInfo(name, 'depth', len(run)))

        trace = self.trace
        axes = [
            ParameterAxis(a.parameter, a.dim, a.role, self._of(element, a.labels), a.masked)
            for a in trace.axes.values()
        ]
        sizes = [ModuleSize(*key, self._of(element, size.labels), size.values) for key, size in trace.sizes.items()]
        inner = [ModuleMask(*key, self._of(element, mask.labels)) for key, mask in trace.inner.items()]
        space = SearchSpace(
            units,
            searched(axes),
            {},
            [*reasons, *problems],
            blocks,
            searched(sizes),
            searched(inner),
            self._uncounted(),
            {name: trace.branches[name] for group in blocks.values() for name in group if name in trace.branches},
        )
        space.costs = self._costs(space, element)
        return space

    def _of(self, element: np.ndarray, labels: Tensor) -> Tensor:
        """Elements that the positions of a label vector follow, shape (n, factors)."""
        return torch.from_numpy(element[self.classes.elements(labels)])

    # ---- elements ---------------------------------------------------------------

    def _settle_elementwise(self) -> None:
        """Parameters used elementwise follow what they meet, along at most one dimension."""
        members = np.bincount(self.classes.of_label)
        for name, (labels, module) in self.trace.elementwise.items():
            classes = self.classes.of(labels)
            met = members[classes] > 1  # an entry that met nothing fits everywhere
            if not met.any():
                continue
            dim = _single_dim(classes, met)
            known = [axis for axis in self.trace.axes.values() if axis.parameter == name]
            if known and all(self._same_vector(axis, classes) for axis in known):
                continue  # a bias that some calls add by themselves, as they do for inputs that are not contiguous
            clash = bool(known)
            if clash or dim is None:
                why = (
                    'is used both as a weight and elementwise'
                    if clash
                    else 'follows elements along several dimensions'
                )
                self.frozen_labels.append((labels.flatten(), FreezeReason(module, f'parameter {name} {why}')))
                self.trace.opaque.setdefault(name, FreezeReason(module, f'parameter {name} {why}'))
            elif dim >= 0:
                rows = torch.where(torch.from_numpy(met), labels, 0).movedim(dim, 0)
                self.trace.axes[name, dim] = Axis(name, dim, rows.reshape(len(rows), -1).amax(1), 'through', module)
        for axis in self.trace.axes.values():
            if axis.parameter in self.trace.opaque:
                self.frozen_labels.append((axis.labels, self.trace.opaque[axis.parameter]))

    def _same_vector(self, axis: Axis, classes: np.ndarray) -> bool:
        """Whether an axis is that of a vector whose entries, used elementwise, are of these classes (n,)."""
        return axis.role == 'through' and np.array_equal(self.classes.of(axis.labels), classes)

    def _factors(self, labels: Tensor) -> set[int]:
        """Every class that some label is, or is a product of; that of label 0 left out."""
        found = self.classes.factors[self.classes.of(labels[labels > 0])]
        return set(found[found >= 0].tolist())

    def _frozen_classes(self) -> tuple[set[int], list[Frozen]]:
        """Classes that stay whole (that of label 0 among them), and the report of why."""
        frozen: set[int] = {int(self.classes.of_label[0])}
        report: Counter[FreezeReason] = Counter()
        producers = self._producers()
        for labels, reason in self._all_frozen():
            members = self._factors(labels)
            for member in members - frozen:
                if member in producers:
                    report[FreezeReason(reason.module or producers[member], reason.reason)] += 1
            frozen |= members
        listed = self._unconsumed(set(producers) - self._removable() - frozen, frozen)
        return frozen, [*listed, *(Frozen(r.module, r.reason, count) for r, count in report.items())]

    def _all_frozen(self) -> list[tuple[Tensor, FreezeReason]]:
        listed = list(self.frozen_labels)
        for axis in self.trace.axes.values():
            if axis.role == 'out' and not self.patterns.selects(axis.module):
                listed.append((axis.labels, FreezeReason(axis.module, 'is left out by include and exclude patterns')))
        return listed

    def _unconsumed(self, classes: set[int], frozen: set[int]) -> list[Frozen]:
        """Elements that no weight reads: a mask could not remove them."""
        found = []
        for axis in self.trace.axes.values():
            members = self._factors(axis.labels) & classes
            if axis.role == 'out' and members:
                found.append(Frozen(axis.module, 'its channels are read by no weight', len(members)))
                classes -= members
                frozen |= members
        return found

    def _producers(self) -> dict[int, str]:
        """The first module that gives out each class."""
        found: dict[int, str] = {}
        for axis in self.trace.axes.values():
            if axis.role == 'out':
                for member in self._factors(axis.labels):
                    found.setdefault(member, axis.module)
        return found

    def _with_role(self, role: str) -> set[int]:
        return set().union(*(self._factors(axis.labels) for axis in self.trace.axes.values() if axis.role == role))

    def _removable(self) -> set[int]:
        """Classes that some mask takes out of all that follows."""
        return self._with_role('in').union(*(self._factors(m.labels) for m in self.trace.inner.values() if m.removes))

    def _group(self, candidates: set[int]) -> list[tuple[str, str, list[int]]]:
        """Units (name, kind, classes): elements with the same places and multiplicities, in order of appearance."""
        vectors = [axis.labels for axis in self.trace.axes.values()]
        vectors += [labels for term in self.trace.costs for labels in term.axes]
        vectors += [mask.labels for mask in self.trace.inner.values()]
        # A module that divides its channels by an attribute may not survive that one part is empty.
        vectors += [size.labels for size in self.trace.sizes.values()]
        wanted = np.zeros(len(self.classes.factors) + 1, dtype=bool)  # class -1, no factor, is the last
        wanted[list(candidates)] = True
        rows = []  # of class, vector, and how often it occurs there
        for index, labels in enumerate(vectors):
            members, counts = np.unique(self.classes.elements(labels), return_counts=True)
            found = np.stack([members, np.full_like(members, index), counts], axis=1)
            rows.append(found[wanted[members]].astype(np.int32))
        table = np.concatenate([np.zeros((0, 3), dtype=np.int32), *rows])
        table = table[np.argsort(table[:, 0], kind='stable')]
        first_label = np.unique(self.classes.of_label, return_index=True)[1]
        found, begins = np.unique(table[:, 0], return_index=True)
        ends = np.append(begins[1:], len(table))
        heads = self._heads()
        groups: dict[tuple[str, bytes], list[int]] = {}
        for place in np.argsort(first_label[found]):
            member = int(found[place])
            kind = 'heads' if member in heads else 'channels'
            places = table[begins[place] : ends[place], 1:].tobytes()
            groups.setdefault((kind, places), []).append(member)
        producers = self._names()
        names: Counter[str] = Counter()
        result = []
        for (kind, _), grouped in groups.items():
            name = producers[grouped[0]]
            names[name] += 1
            result.append((name if names[name] == 1 else f'{name}#{names[name]}', kind, grouped))
        return result

    def _heads(self) -> set[int]:
        return set().union(*(self._factors(s.labels) for s in self.trace.sizes.values() if s.kind == 'heads'))

    def _names(self) -> dict[int, str]:
        """Per class the first layer that gives it out, or for heads and their width the attribute that counts them."""
        found: dict[int, str] = {}
        sizes = [(key, size) for key, size in self.trace.sizes.items() if size.kind == 'heads']
        for (module, attribute), size in sizes:
            for member in self._factors(size.labels):
                found.setdefault(member, f'{module}.{attribute}' if module else attribute)
        for axis in self.trace.axes.values():
            if axis.role == 'out':
                single = self.classes.factors[self.classes.of(axis.labels)]
                for member in single[single[:, 1] < 0][:, 0].tolist():
                    found.setdefault(member, axis.module)
        for (module, attribute), size in self.trace.sizes.items():
            for member in self._factors(size.labels):
                found.setdefault(member, f'{module}.{attribute}' if module else attribute)
        return found

    # ---- cost -------------------------------------------------------------------

    def _uncounted(self) -> dict[str, str]:
        return {**self.trace.uncounted, **dict.fromkeys(sorted(self.trace.fused), FUSED)}

    def _is_fused(self, module: str) -> bool:
        return any(module == name or module.startswith(f'{name}.') for name in self.trace.fused)

    def _costs(self, space: SearchSpace, element: np.ndarray) -> dict[str, CostTable]:
        enclosing = {name: index for index, group in space.blocks.items() for name in group}

        def gate(module: str) -> int | None:
            while module:
                if module in enclosing:
                    return enclosing[module]
                module = module.rpartition('.')[0]
            return None

        flops = CostTableBuilder(space.units)
        for term in self.trace.costs:
            if self._is_fused(term.module):
                continue
            flops.add(term.coefficient, [self._of(element, labels) for labels in term.axes], gate(term.module))
        params = CostTableBuilder(space.units)
        by_name: dict[str, list[ParameterAxis]] = {}
        for axis in space.axes:
            by_name.setdefault(axis.parameter, []).append(axis)
        for name, parameter in self.model.named_parameters():
            axes = by_name.get(name, [])
            rest = parameter.numel()
            for axis in axes:
                rest //= len(axis.elements)
            params.add(rest, [axis.elements for axis in axes], gate(name))
        return {'flops': flops.build(), 'params': params.build()}


Follower = TypeVar('Follower', ParameterAxis, ModuleSize, ModuleMask)


def searched(followers: list[Follower]) -> list[Follower]:
    """Those that follow at least one element."""
    return [f for f in followers if bool((f.elements != FIXED).any())]


def _single_dim(classes: np.ndarray, met: np.ndarray) -> int | None:
    """The one dimension along which classes differ; -1 if they are all one, None if they differ along several."""
    if len(np.unique(classes[met])) == 1:
        return -1
    for dim in range(classes.ndim):
        others = tuple(d for d in range(classes.ndim) if d != dim)
        low = np.where(met, classes, np.iinfo(classes.dtype).max).min(axis=others, keepdims=True)
        if (~met | (classes == low)).all():
            return dim
    return None
