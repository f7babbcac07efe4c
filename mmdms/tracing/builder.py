"""Build a search space from what a trace wrote down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..space.cost_table import CostTable, CostTableBuilder
from ..space.patterns import Patterns
from ..space.search_space import FIXED, ModuleMask, ModuleSize, ParameterAxis, SearchSpace
from ..space.structure import UnitInfo
from .depth_units import find_runs
from .elements import Elements
from .frozen import FrozenElements
from .groups import Group, find_groups
from .held import Dimensions, find_held
from .trace import Trace

FUSED = 'branch or norm that a deployment fuses'


class SearchSpaceBuilder:
    """Turns a trace into a search space."""

    def __init__(
        self, model: nn.Module, trace: Trace, include: Iterable[str] = ('*',), exclude: Iterable[str] = ()
    ) -> None:
        self.model = model
        self.trace = trace
        self.patterns = Patterns(include, exclude)
        self.elements = Elements(trace)
        self.classes = self.elements.classes

    def build(self) -> SearchSpace:
        """Group elements into units and count what they cost."""
        frozen = FrozenElements(self.elements, self.patterns.selects)
        groups = self._groups(frozen)
        runs, problems = find_runs(self.trace, self.classes.of_label, self.patterns)
        self.patterns.check_used()

        units: list[UnitInfo] = []
        element = np.full(len(self.classes.factors) + 1, FIXED, dtype=np.int64)  # class -1, no factor, is the last
        count = 0
        for group in groups:
            element[group.members] = np.arange(count, count + len(group.members))
            count += len(group.members)
            units.append(UnitInfo(group.name, group.kind, len(group.members)))
        blocks: dict[int, tuple[str, ...]] = {}
        taken = {unit.name for unit in units}
        for container, run in runs:
            name = f'{container}#blocks' if container in taken else container
            for blocks_of_one in run:
                blocks[count] = blocks_of_one
                count += 1
            units.append(UnitInfo(name, 'depth', len(run)))

        trace = self.trace
        axes = [
            ParameterAxis(a.parameter, a.dim, a.role, self._of(element, a.labels), a.masked)
            for a in trace.axes.values()
        ]
        sizes = [
            ModuleSize(*key, self._of(element, size.labels), size.values, size.times)
            for key, size in trace.sizes.items()
        ]
        inner = [ModuleMask(*key, self._of(element, mask.labels)) for key, mask in trace.inner.items()]
        dimensions = Dimensions(self.model, trace)
        held = find_held(dimensions, self.elements, frozen, element)
        space = SearchSpace(
            units,
            searched(axes),
            {},
            [*frozen.report.rows, *problems],
            blocks,
            searched(sizes),
            searched(inner),
            self._uncounted(),
            {name: trace.branches[name] for group in blocks.values() for name in group if name in trace.branches},
            held,
            frozenset(dimensions.kernels),
            {name for group in blocks.values() for name in group if trace.blocks[name].returns_one_in_a_tuple},
        )
        space.costs = self._costs(space, element)
        return space

    def _groups(self, frozen: FrozenElements) -> list[Group]:
        """Groups of several elements; those that are alone in their places join what is frozen."""
        produced = self.elements.with_role('out') | self.elements.begun().keys()
        candidates = (produced & self.elements.removable()) - frozen.classes
        groups = find_groups(self.elements, candidates)
        for group in groups:
            if len(group.members) == 1:
                frozen.freeze_single(group)
        return [group for group in groups if len(group.members) > 1]

    def _of(self, element: np.ndarray, labels: Tensor) -> Tensor:
        """Elements that the positions of a label vector follow, shape (n, factors)."""
        return torch.from_numpy(element[self.classes.elements(labels)])

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
