"""The search space: which elements can be removed, and what each of them costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ..budgets.cost_table import CostTable, CostTableBuilder
from ..structure import Structure, UnitInfo
from .depth import find_runs
from .labels import FreezeReason, Frozen
from .patterns import Patterns
from .records import Axis, Trace

FIXED = -1
"""Element index of a position that always stays."""


@dataclass
class ParameterAxis:
    """A dimension of a parameter or buffer whose positions follow elements.

    ``elements[i]`` is the index of the element that position ``i`` follows, or
    ``FIXED``. ``role`` is that of :class:`mmdms.tracing.records.Axis`.
    """

    parameter: str
    dim: int
    role: str
    elements: Tensor


@dataclass
class SearchSpace:
    """Units, the parameters that they slice, and the cost of every structure.

    All units share one element index: unit ``u`` owns the elements
    ``offsets[u] : offsets[u] + units[u].total``.
    """

    units: list[UnitInfo]
    axes: list[ParameterAxis]
    costs: dict[str, CostTable]
    frozen: list[Frozen]
    blocks: dict[int, str] = field(default_factory=dict)  # element of a depth unit -> module name

    @property
    def offsets(self) -> list[int]:
        """First element of every unit."""
        return [0, *np.cumsum([u.total for u in self.units]).tolist()][:-1]

    @property
    def num_elements(self) -> int:
        """Elements of all units together."""
        return sum(u.total for u in self.units)

    @cached_property
    def unit_of_element(self) -> Tensor:
        """Index of the unit of every element, shape (elements,)."""
        return torch.repeat_interleave(
            torch.arange(len(self.units)), torch.tensor([u.total for u in self.units], dtype=torch.long)
        )

    def mask(self, structure: Structure) -> Tensor:
        """Boolean mask over all elements, shape (elements,), of a structure of this space."""
        structure.check(self.units)
        return (
            torch.cat([torch.from_numpy(structure.mask(u.name)) for u in self.units])
            if self.units
            else torch.zeros(0, dtype=torch.bool)
        )

    def structure(self, mask: Tensor) -> Structure:
        """Structure that keeps the elements where ``mask`` (elements,) is true."""
        parts = torch.split(mask.bool().cpu(), [u.total for u in self.units]) if self.units else ()
        return Structure(self.units, [part.nonzero().flatten().tolist() for part in parts])

    def minimum_mask(self) -> Tensor:
        """Mask with every unit at its minimum: one element of a channel unit, no block of a depth unit."""
        mask = torch.zeros(self.num_elements, dtype=torch.bool)
        for offset, unit in zip(self.offsets, self.units, strict=True):
            mask[offset : offset + unit.minimum] = True
        return mask

    def counts(self, mask: Tensor) -> Tensor:
        """Kept elements per unit, shape (units,), of a mask (elements,) of any number type."""
        counts = torch.zeros(
            len(self.units), dtype=mask.dtype if mask.is_floating_point() else torch.float64, device=mask.device
        )
        return counts.index_add(0, self.unit_of_element.to(mask.device), mask.to(counts.dtype))

    def cost(self, metric: str, mask: Tensor) -> float:
        """Cost of a hard mask: FLOPs as multiply-accumulates of one sample, or parameters."""
        return float(self.costs[metric](self.counts(mask.double()), mask.double()))

    def prunable_fraction(self, metric: str = 'flops') -> float:
        """1 - cost with every unit at its minimum / cost of the whole network."""
        full = self.cost(metric, torch.ones(self.num_elements))
        return 1.0 - self.cost(metric, self.minimum_mask()) / full if full else 0.0


class SearchSpaceBuilder:
    """Turns a trace into a search space."""

    def __init__(
        self, model: nn.Module, trace: Trace, include: Iterable[str] = ('*',), exclude: Iterable[str] = ()
    ) -> None:
        self.model = model
        self.trace = trace
        self.patterns = Patterns(include, exclude)
        self.classes = trace.store.classes()
        self._settle_elementwise()

    def build(self) -> SearchSpace:
        """Group elements into units and count what they cost."""
        frozen, reasons = self._frozen_classes()
        candidates = self._candidates(frozen)
        names = self._group(candidates)
        runs, problems = find_runs(self.trace, self.classes, self.patterns)
        self.patterns.check_used()

        units: list[UnitInfo] = []
        element_of_class: dict[int, int] = {}
        for name, members in names:
            for member in members:
                element_of_class[member] = len(element_of_class)
            units.append(UnitInfo(name, 'channels', len(members)))
        blocks: dict[int, str] = {}
        taken = {name for name, _ in names}
        for container, run in runs:
            name = f'{container}#blocks' if container in taken else container
            for block in run:
                blocks[len(element_of_class) + len(blocks)] = block
            units.append(UnitInfo(name, 'depth', len(run)))

        element = np.full(int(self.classes.max()) + 1, FIXED, dtype=np.int64)
        for member, index in element_of_class.items():
            element[member] = index
        axes = [
            ParameterAxis(
                axis.parameter, axis.dim, axis.role, torch.from_numpy(element[self.classes[axis.labels.numpy()]])
            )
            for axis in self.trace.axes.values()
        ]
        axes = [axis for axis in axes if bool((axis.elements != FIXED).any())]
        space = SearchSpace(units, axes, {}, [*reasons, *problems], blocks)
        space.costs = self._costs(space, element)
        return space

    # ---- elements ---------------------------------------------------------------

    def _settle_elementwise(self) -> None:
        """Parameters used elementwise follow what they meet, along at most one dimension."""
        store = self.trace.store
        for name, (labels, module) in self.trace.elementwise.items():
            classes = torch.from_numpy(self.classes[labels.numpy()])
            varying = [d for d in range(classes.dim()) if bool((classes != classes.narrow(d, 0, 1)).any())]
            clash = any(axis.parameter == name for axis in self.trace.axes.values())
            if clash or len(varying) > 1:
                why = (
                    'is used both as a weight and elementwise'
                    if clash
                    else 'follows elements along several dimensions'
                )
                store.freeze(labels, FreezeReason(module, f'parameter {name} {why}'))
                self.trace.opaque.setdefault(name, FreezeReason(module, f'parameter {name} {why}'))
            elif varying:
                vector = labels.movedim(varying[0], 0).reshape(labels.size(varying[0]), -1)[:, 0]
                self.trace.axes[name, varying[0]] = Axis(name, varying[0], vector, 'through', module)
        for axis in self.trace.axes.values():
            if axis.parameter in self.trace.opaque:
                store.freeze(axis.labels, self.trace.opaque[axis.parameter])

    def _frozen_classes(self) -> tuple[set[int], list[Frozen]]:
        """Classes that stay whole (class 0 of label 0 among them), and the report of why."""
        frozen: set[int] = {int(self.classes[0])}
        report: Counter[FreezeReason] = Counter()
        producers = self._producers()
        for labels, reason in self._all_frozen():
            members = set(self.classes[labels.numpy()].tolist()) & producers.keys()
            for member in members - frozen:
                module = reason.module or producers[member]
                report[FreezeReason(module, reason.reason)] += 1
            frozen |= set(self.classes[labels.numpy()].tolist())
        consumed = self._classes_with_role('in')
        return frozen, self._unconsumed(set(producers) - consumed - frozen, frozen) + [
            Frozen(r.module, r.reason, count) for r, count in report.items() if count
        ]

    def _all_frozen(self) -> list[tuple[Tensor, FreezeReason]]:
        listed = list(self.trace.store.frozen)
        for axis in self.trace.axes.values():
            if axis.role == 'out' and not self.patterns.selects(axis.module):
                listed.append((axis.labels, FreezeReason(axis.module, 'is left out by include and exclude patterns')))
        return listed

    def _unconsumed(self, classes: set[int], frozen: set[int]) -> list[Frozen]:
        """Elements that no weight reads: a mask could not remove them."""
        found = []
        for axis in self.trace.axes.values():
            members = set(self.classes[axis.labels.numpy()].tolist()) & classes
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
                for member in self.classes[axis.labels[axis.labels > 0].numpy()].tolist():
                    found.setdefault(member, axis.module)
        return found

    def _classes_with_role(self, role: str) -> set[int]:
        found: set[int] = set()
        for axis in self.trace.axes.values():
            if axis.role == role:
                found |= set(self.classes[axis.labels[axis.labels > 0].numpy()].tolist())
        return found

    def _candidates(self, frozen: set[int]) -> set[int]:
        return (self._classes_with_role('out') & self._classes_with_role('in')) - frozen

    def _group(self, candidates: set[int]) -> list[tuple[str, list[int]]]:
        """Units: elements with the same places and multiplicities, in order of appearance."""
        places: dict[int, list[tuple[int, int]]] = {}
        producers: dict[int, str] = {}
        vectors: list[tuple[Tensor, Axis | None]] = [(axis.labels, axis) for axis in self.trace.axes.values()]
        vectors += [(labels, None) for term in self.trace.costs for labels in term.axes]
        for index, (labels, axis) in enumerate(vectors):
            members, counts = np.unique(self.classes[labels.numpy()], return_counts=True)
            keep = [i for i, member in enumerate(members.tolist()) if member in candidates]
            for i in keep:
                member = int(members[i])
                places.setdefault(member, []).append((index, int(counts[i])))
                if axis is not None and axis.role == 'out':
                    producers.setdefault(member, axis.module)
        found, first_labels = np.unique(self.classes, return_index=True)
        first_label = dict(zip(found.tolist(), first_labels.tolist(), strict=True))
        groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for member in sorted(places, key=first_label.__getitem__):
            groups.setdefault(tuple(places[member]), []).append(member)
        names: Counter[str] = Counter()
        result = []
        for members in groups.values():
            name = producers[members[0]]
            names[name] += 1
            result.append((name if names[name] == 1 else f'{name}#{names[name]}', members))
        return result

    # ---- cost -------------------------------------------------------------------

    def _costs(self, space: SearchSpace, element: np.ndarray) -> dict[str, CostTable]:
        enclosing = {name: index for index, name in space.blocks.items()}

        def gate(module: str) -> int | None:
            while module:
                if module in enclosing:
                    return enclosing[module]
                module = module.rpartition('.')[0]
            return None

        flops = CostTableBuilder(space.units)
        for term in self.trace.costs:
            elements = [torch.from_numpy(element[self.classes[labels.numpy()]]) for labels in term.axes]
            flops.add(term.coefficient, elements, gate(term.module))
        params = CostTableBuilder(space.units)
        by_name: dict[str, list[ParameterAxis]] = {}
        for axis in space.axes:
            by_name.setdefault(axis.parameter, []).append(axis)
        for name, parameter in self.model.named_parameters():
            axes = by_name.get(name, [])
            rest = parameter.numel()
            for axis in axes:
                rest //= axis.elements.numel()
            params.add(rest, [axis.elements for axis in axes], gate(name))
        return {'flops': flops.build(), 'params': params.build()}
