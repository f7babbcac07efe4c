"""Verify a search space: a structure cut from it must run, and equal its mask."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..adapters.base import AnyAdapter, adapt, foreign_adapters
from ..errors import AdapterError
from ..masks.channel_masks import Masks
from ..network.copying import copy_network
from ..network.example_call import Inputs
from ..space.frozen import Frozen
from ..space.search_space import FIXED, SearchSpace
from ..space.structure import Structure, UnitInfo
from ..tracing.builder import Follower, searched
from ..tracing.partition import held_after
from .modes import Modes
from .parity import check_parity, compare, outputs, prepare_for_parity

GOLDEN_RATIO = (5**0.5 - 1) / 2


def random_structure(space: SearchSpace, ratio: float, seed: int = 0, units: Sequence[int] | None = None) -> Structure:
    """Keep about ``ratio`` of every unit's elements, at random.

    Args:
        ratio: in [0, 1]; every unit keeps at least its minimum.
        seed: of the choice.
        units: indices of the units that are cut; all if None.
    """
    generator = np.random.default_rng(seed)
    kept = []
    for index, unit in enumerate(space.units):
        count = max(unit.minimum, round(unit.total * ratio))
        choice = _choice(unit, count, generator)
        kept.append(choice if units is None or index in units else range(unit.total))
    return Structure(space.units, kept)


def _choice(unit: UnitInfo, count: int, generator: np.random.Generator) -> Sequence[int]:
    """Elements of a unit that stay, at random where those of its kind may."""
    drawn = generator.permutation(unit.total)[:count].tolist()
    return range(count) if unit.mutable.prefix_only else drawn


def uneven_structure(space: SearchSpace, cut: int, seed: int, units: Sequence[int]) -> Structure:
    """Cut some units at random, each by a share of its own.

    If all were cut alike, a forward that expects two of them to be of equal
    size (the halves of a ``chunk``) would pass. All blocks stay in the first
    cut, so that what goes wrong inside them shows, and go in the second. Half of
    them stay in the third.

    Args:
        cut: 0, 1 or 2: which of the three.
        seed: of the choice of elements.
        units: indices of the units that are cut; but for blocks they keep 35 to 85%.
    """
    generator = np.random.default_rng(seed)
    kept: list[Sequence[int]] = []
    for index, unit in enumerate(space.units):
        # Multiples of the golden ratio keep apart: no two units get the same share.
        share = 0.35 + 0.5 * (((index + 1) * GOLDEN_RATIO + 0.5 * cut) % 1)
        count = max(1, unit.minimum, min(round(unit.total * share), unit.total - 1))
        if unit.mutable.gates_modules:
            count = max(unit.minimum, (unit.total, 0, (unit.total + 1) // 2)[cut])
        choice = _choice(unit, count, generator)
        kept.append(choice if index in units else range(unit.total))
    return Structure(space.units, kept)


@dataclass
class Verifier:
    """Finds the units of a space whose removal the sliced network does not survive."""

    model: nn.Module
    space: SearchSpace
    inputs: Inputs
    forward: Callable[..., Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.model = prepare_for_parity(self.model, self.seed, cast=False)
        self.modes = Modes(self.model, self.inputs, self.forward)
        self.last_problem = ''

    def run(self) -> SearchSpace:
        """Return the space without the units at fault, which are reported as frozen.

        Raises:
            AdapterError: if an adapter that is not part of mmdms changes what the network computes.
        """
        for adapter in foreign_adapters(self.model):
            self._check_adapter(adapter)
        wrong = wrong_branches(self.model, self.space, self.inputs, self.forward)
        if wrong:
            branches = {name: ends for name, ends in self.space.branches.items() if name not in wrong}
            self.space = replace(self.space, branches=branches)
        accepted: list[int] = []
        remaining = list(range(len(self.space.units)))
        faults: dict[int, str] = {}
        while remaining:
            good = self._longest_good_prefix(accepted, remaining)
            accepted += remaining[:good]
            if good < len(remaining):
                faults[remaining[good]] = self._problem([*accepted, remaining[good]]) or self.last_problem
            remaining = remaining[good + 1 :]
        for mode, reason in self.modes.left_out.items():
            print(f'not verified {mode}: of the whole network, {reason}')
        return freeze_units(self.space, faults) if faults else self.space

    def _check_adapter(self, adapter: AnyAdapter) -> None:
        adapted = copy_network(self.model)
        adapt(adapted, masked=True, only=adapter)
        difference = compare(self.model, adapted, self.inputs, self.forward)
        if not difference.holds:
            raise AdapterError(
                f'adapter {adapter.__name__} does not compute what {adapter.adapts!r} computes: outputs up to '
                f'{difference.max_abs_output:.3g} differ by {difference.max_abs_diff:.3g}; correct its forward, '
                'or remove it from the registry ADAPTERS'
            )

    def _longest_good_prefix(self, accepted: list[int], remaining: list[int]) -> int:
        if self._problem(accepted + remaining) is None:
            return len(remaining)
        low, high = 0, len(remaining)  # a prefix of ``low`` is good, one of ``high`` is not
        while high - low > 1:
            middle = (low + high) // 2
            if self._problem(accepted + remaining[:middle]) is None:
                low = middle
            else:
                high = middle
        return low

    def _problem(self, units: list[int]) -> str | None:
        """What goes wrong when these units are cut, or None."""
        for cut in (0, 1):
            structure = uneven_structure(self.space, cut, self.seed, units)
            try:
                parity = check_parity(
                    self.model, self.space, structure, self.inputs, self.forward, prepared=True, gradients=cut == 1
                )
            except Exception as error:  # a forward with sizes of its own may raise anything
                what = (str(error).splitlines() or [''])[0]
                self.last_problem = f'the sliced network does not run: {type(error).__name__}: {what}{_line(error)}'
                return self.last_problem
            if not parity.holds:
                self.last_problem = f'the sliced network differs from the masked one by {parity.max_abs_diff:.3g}'
                return self.last_problem
        if (problem := self.modes.problem(self.space, uneven_structure(self.space, 2, self.seed, units))) is not None:
            self.last_problem = problem
            return problem
        return None


def _line(error: Exception) -> str:
    """The line of the network's own source where an error arose, for a message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(PYTORCH)]
    own = [frame for frame in own if not Path(frame.filename).is_relative_to(MMDMS)]
    if not own:
        return ''
    return f' (in {Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line})'


PYTORCH, MMDMS = Path(torch.__file__).parent, Path(__file__).parents[1]


def wrong_branches(
    model: nn.Module, space: SearchSpace, inputs: Inputs, forward: Callable[..., Any] | None = None
) -> set[str]:
    """Blocks that do not hand on their input once the parameters that end their branches are 0.

    All blocks are looked at in one run. The arguments are those of
    :func:`mmdms.verification.parity.check_parity`, of a prepared model.
    """
    wrong: set[str] = set()
    if not space.branches:
        return wrong
    mask = torch.ones(space.num_elements, dtype=torch.float64)
    mask[list(space.blocks)] = 0.0
    masks = Masks(model, space)

    def watch(name: str) -> Any:
        def compare(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor) and output.shape == args[0].shape and bool((output == args[0]).all()):
                return None
            wrong.add(name)
            return args[0]

        return model.get_submodule(name).register_forward_hook(compare)

    handles = [watch(name) for name in space.branches]
    try:
        masks.set(mask)
        outputs(model, inputs, forward)
    except Exception:  # the cut that is tried next says what it is
        wrong.update(space.branches)
    finally:
        for handle in handles:
            handle.remove()
        masks.remove()
    return wrong


def freeze_units(space: SearchSpace, faults: dict[int, str]) -> SearchSpace:
    """Take units out of a space; ``faults`` maps their index to the reason."""
    kept = [index for index in range(len(space.units)) if index not in faults]
    renumber = torch.full((space.num_elements + 1,), FIXED, dtype=torch.long)
    count = 0
    for index in kept:
        offset, total = space.offsets[index], space.units[index].total
        renumber[offset : offset + total] = torch.arange(count, count + total)
        count += total

    def renumbered(followers: list[Follower]) -> list[Follower]:
        return searched([replace(follower, elements=renumber[follower.elements]) for follower in followers])

    frozen = [Frozen(space.units[i].name, reason, space.units[i].total) for i, reason in faults.items()]
    return SearchSpace(
        units=[space.units[index] for index in kept],
        axes=renumbered(space.axes),
        costs={metric: _fix(table, space, kept, renumber) for metric, table in space.costs.items()},
        frozen=[*space.frozen, *frozen],
        blocks={int(renumber[e]): group for e, group in space.blocks.items() if renumber[e] != FIXED},
        sizes=renumbered(space.sizes),
        inner=renumbered(space.inner),
        uncounted=space.uncounted,
        branches=space.branches,
        held=held_after(space, list(faults)),
        kernels=space.kernels,
        tuples=space.tuples,
    )


def _fix(table: Any, space: SearchSpace, kept: list[int], renumber: Tensor) -> Any:
    totals = torch.tensor([u.total for u in space.units], dtype=torch.float64)
    gone = [i for i in range(len(space.units)) if i not in kept]
    fixed = table.fixed + table.per_unit[:, gone] @ totals[gone]
    return type(table)(fixed, table.per_unit[:, kept], table.coefficients, table.rows, renumber[table.gates])
