"""How many elements of every unit stay, so that a structure costs what the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...space.outcome import NEAR
from ...space.search_space import SearchSpace
from .blocks import BlockOrder

SWAP_GAP = 0.002
"""Exchanges between units end this near to the target."""

PRICED_PAIRS = 20
"""Exchanges between two units that are priced exactly, out of all whose price is estimated."""

TRIED_DEPTHS = (6, 2)
"""Depths that are tried where the searched one does not come near: with more blocks, and with fewer."""

PRICED_STRUCTURES = 30_000
"""Structures of one depth that are priced at most where exchanges do not come near."""

ROUNDING = 1e-9
"""Prices of many structures at once are exact to this share; a structure that is chosen is priced by itself."""

PRICED_TOGETHER = 1024
"""Structures that are priced in one go, to bound the memory."""


class Preference(NamedTuple):
    """What a search wants to keep: arguments of :func:`mmdms.mutators.budgets.fit.fit_to_budget` of the same names."""

    keep_ratio: Tensor
    ranks: Tensor
    importance: Tensor | None = None
    whole: Tensor | None = None


class Fitter:
    """Fits counts of kept elements, shape (units,), float64, to a budget.

    Args: see :func:`mmdms.mutators.budgets.fit.fit_to_budget`.
    """

    def __init__(
        self,
        space: SearchSpace,
        metric: str,
        target: float,
        keep_ratio: Tensor,
        ranks: Tensor,
        divisors: Tensor,
        importance: Tensor | None = None,
        whole: Tensor | None = None,
        minimum: Tensor | None = None,
    ) -> None:
        self.table = space.costs[metric].to('cpu')
        self.target = target
        self.full = space.cost(metric, torch.ones(space.num_elements))
        self.limit = target * self.full
        self.unit = space.unit_of_element
        self.total = torch.tensor([u.total for u in space.units], dtype=torch.float64)
        fewest = torch.tensor([u.minimum for u in space.units]) if minimum is None else minimum.cpu()
        self.minimum = fewest.double()
        self.depth = torch.tensor([u.mutable.gates_modules for u in space.units], dtype=torch.bool)
        self.whole = torch.zeros_like(self.depth) if whole is None else whole.cpu()
        self._set_step(divisors.cpu().double())
        self.wanted = (keep_ratio.double().cpu().clamp(0, 1) * self.total).clamp(min=1e-3)
        # Rank as a number from 0: the element stays while its place is below the count.
        self.place = (ranks.double().cpu() * self.total[self.unit]).floor()
        self.gates = torch.zeros(space.num_elements, dtype=torch.float64)
        self.blocks = BlockOrder(
            self.wanted, self.depth & ~self.whole, self.total, self.unit, self.place, importance, self.minimum
        )

    def mask(self, counts: Tensor) -> Tensor:
        """Mask (elements,) of the best ranked elements."""
        return self.place < counts[self.unit]

    def fit(self) -> Tensor:
        """Counts that cost at most the target: within 1% of it, or as near as was found."""
        best = self._nearest_widths(*self._start())
        if self._near(best):
            return best
        for depth in self._other_depths(best):
            scaled = self._scaled(depth)
            trial = best if scaled is None else self._nearest_widths(*scaled)
            best = trial if self._cost(trial) > self._cost(best) else best
            if self._near(best):
                return best
        return self._complete(best)

    def depth_within_reach(self) -> Tensor:
        """Keep ratios (units,): the searched ones, but of depth units those that full widths need to cost the target.

        The fewest blocks return. Where the searched depth is enough, nothing changes.
        """
        searched, depth = self._round(self.wanted), self._reachable()
        return torch.where(self.depth & (depth > searched), depth / self.total, self.wanted / self.total)

    def _reachable(self) -> Tensor:
        """Counts, of which those of depth units matter: see :meth:`depth_within_reach`."""
        counts, full = self._round(self.wanted), set[int]()
        while not self._near(torch.where(self.depth, counts, self.total)):
            grown = self._grown(counts, full)
            if grown is None:
                break
            counts = grown
        return counts

    def _set_step(self, step: Tensor) -> None:
        self.step = torch.where(self.depth, 1.0, step)
        least = torch.minimum((self.minimum / self.step).ceil() * self.step, self.total)
        self.lowest = torch.where(self.whole, self.total, least)

    def _cost(self, counts: Tensor) -> float:
        """Cost of one structure, to the last bit as ``SearchSpace.cost`` has it."""
        gated = self.table.gated
        self.gates[gated] = (self.place[gated] < counts[self.unit[gated]]).double()
        return float(self.table(counts, self.gates))

    def _costs(self, counts: Tensor) -> Tensor:
        """Costs (structures,) of counts (structures, units), to rounding."""
        gated = self.table.gated
        opened = (self.place[gated] < counts[:, self.unit[gated]]).double()
        return self.table.of_many(counts, opened)

    def _fits(self, counts: Tensor) -> bool:
        return self._cost(counts) / self.full <= self.target

    def _near(self, counts: Tensor) -> bool:
        return self._cost(counts) >= (1 - NEAR) * self.limit

    def _start(self) -> tuple[float, Tensor]:
        """The widths scaled by one factor, at a depth within reach; that factor, and the counts."""
        scaled = self._scaled(self._reachable())
        if scaled is None:  # the depth that was searched leaves too little for any width
            scaled = self._largest(lambda s: self._round(s * self.wanted))
        if scaled is None:  # every divisor is too coarse: single channels
            self._set_step(torch.ones_like(self.step))
            scaled = self._largest(lambda s: self._round(s * self.wanted))
        return (0.0, self.lowest) if scaled is None else scaled

    def _scaled(self, depth: Tensor) -> tuple[float, Tensor] | None:
        return self._largest(lambda s: torch.where(self.depth, depth, self._round(s * self.wanted)))

    def _round(self, counts: Tensor) -> Tensor:
        rounded = (counts / self.step + 0.5).floor() * self.step
        rounded = torch.where(rounded + self.step / 2 > self.total, self.total, rounded)
        return torch.maximum(rounded, self.lowest)

    def _largest(self, counts_at: Callable[[float], Tensor]) -> tuple[float, Tensor] | None:
        """Largest factor whose counts fit, by bisection; None if not even 0 fits."""
        low, high = 0.0, float((self.total / self.wanted).max()) + 1.0
        if not self._fits(counts_at(low)):
            return None
        for _ in range(60):
            middle = (low + high) / 2
            if self._fits(counts_at(middle)):
                low = middle
            else:
                high = middle
        return low, counts_at(low)

    def _nearest_widths(self, scale: float, counts: Tensor) -> Tensor:
        counts = self._exchange(self._fill(scale, counts))
        return counts if self._near(counts) else self._enumerated(counts)

    def _fill(self, scale: float, counts: Tensor) -> Tensor:
        """Give what is left of the budget to the units that rounding took most from."""
        counts = self._with_free_widths(counts)
        while True:
            units, moved = self._moves(counts, 1)
            cheap = self._costs(moved) <= self.limit * (1 + ROUNDING)
            trials = {int(unit): trial for unit, trial in zip(units[cheap], moved[cheap], strict=True)}
            lack = (scale * self.wanted - counts) / self.step
            order = torch.argsort(lack, descending=True, stable=True).tolist()
            fitting = (trials[unit] for unit in order if unit in trials and self._fits(trials[unit]))
            found = next(fitting, None)
            if found is None:
                return counts
            counts = found

    def _with_free_widths(self, counts: Tensor) -> Tensor:
        """Widths that cost nothing, those inside removed blocks, are full."""
        units = (~self.depth).nonzero().flatten()
        raised = self._each(counts, units, self.total[units])
        free = units[self._costs(raised) == self._costs(counts[None])]
        return counts.index_put((free,), self.total[free])

    def _exchange(self, counts: Tensor) -> Tensor:
        """Close a gap that no single step fits in: take steps from one unit and give some to another.

        The changes of cost add up nearly, so pairs are ranked by their sum and
        only the most promising are priced together.
        """
        cost = self._cost(counts)
        while cost < (1 - SWAP_GAP) * self.limit:
            up_units, up = self._moves(counts, 1)
            down_units, down = self._moves(counts, -1)
            change = (self._costs(down) - cost)[:, None] + (self._costs(up) - cost)
            useful = (change > 0) & (change <= self.limit - cost) & (down_units[:, None] != up_units)
            pairs = useful.nonzero().flip(0)  # of equal sums, the later units first
            order = torch.argsort(change[pairs[:, 0], pairs[:, 1]], descending=True, stable=True)
            for row, column in pairs[order[:PRICED_PAIRS]].tolist():
                trial = down[row].clone()
                trial[up_units[column]] = up[column, up_units[column]]
                if cost < self._cost(trial) and self._fits(trial):
                    counts, cost = trial, self._cost(trial)
                    break
            else:
                break
        return counts

    def _moves(self, counts: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Counts with one width moved by 1 or -1 steps of its divisor.

        Returns:
            The units that can move, shape (moves,), and the counts, shape (moves, units).
        """
        # The whole unit need not be a multiple of the step.
        value = torch.minimum(((counts / self.step).ceil() + steps) * self.step, self.total)
        able = ~self.depth & ~self.whole & (value != counts) & (value >= self.lowest)
        units = able.nonzero().flatten()
        return units, self._each(counts, units, value[units])

    def _each(self, counts: Tensor, units: Tensor, values: Tensor) -> Tensor:
        """Copies of counts, in each of which one unit has another value, shape (len(units), units)."""
        copies = counts.repeat(len(units), 1)
        copies[torch.arange(len(units)), units] = values
        return copies

    def _other_depths(self, counts: Tensor) -> Iterator[Tensor]:
        """Depths whose widths may come nearer: with the blocks back that were wanted most, then with fewer."""
        reached, full = self._cost(counts), set[int]()
        more, fewer = TRIED_DEPTHS
        grown: Tensor | None = counts
        while more and grown is not None and (grown := self._grown(grown, full)) is not None:
            more -= 1
            yield grown
        shrunk = counts
        while fewer and (unit := self.blocks.next_out(shrunk)) is not None:
            shrunk = self._with_blocks(shrunk, unit, -1)
            if self._cost(torch.where(self.depth, shrunk, self.total)) <= reached:
                return
            fewer -= 1
            yield shrunk

    def _grown(self, counts: Tensor, full: set[int]) -> Tensor | None:
        """One block more; None if there is none, or none leaves room for the smallest widths.

        Units without room are added to ``full``.
        """
        while (unit := self.blocks.next_in(counts, full)) is not None:
            trial = self._with_blocks(counts, unit, 1)
            if self._fits(torch.where(self.depth, trial, self.lowest)):
                return trial
            full.add(unit)
        return None

    def _with_blocks(self, counts: Tensor, unit: int, more: int) -> Tensor:
        changed = counts.clone()
        changed[unit] += more
        return changed

    def _enumerated(self, best: Tensor) -> Tensor:
        """Widths near those of ``best``, at its depth: the most similar of all within 1% of the target.

        If none is within 1% of the target, the most similar of all within 1% of the dearest that fits.
        """
        every = torch.cartesian_prod(*self._windows(best)).view(-1, len(best))
        cost = torch.cat([self._costs(some) for some in every.split(PRICED_TOGETHER)])
        cost = cost.masked_fill(cost > self.limit, -torch.inf)
        dearest = float(cost.max())
        aim = self.limit if dearest >= (1 - NEAR) * self.limit else dearest
        good = cost >= (1 - NEAR) * aim
        distance = ((every - best) / self.total).square().sum(1).masked_fill(~good, torch.inf)
        found = every[distance.argmin()]
        return found if self._fits(found) else best

    def _windows(self, best: Tensor) -> list[Tensor]:
        """Values of every unit, those of ``best`` among them, that make at most ``PRICED_STRUCTURES`` together.

        Units that cost nothing stand still, as do blocks. Of many units, those with the cheapest steps move.
        """
        price = torch.zeros_like(best)
        for steps in (-1, 1):
            units, moved = self._moves(best, steps)
            price[units] = (self._costs(moved) - self._cost(best)).abs()
        cheapest_first = torch.argsort(price, stable=True)[(price == 0).sum() :].tolist()
        options = [self._options(unit) for unit in range(len(best))]
        radius = max(len(option) for option in options)
        while True:
            windows, size = [value.view(1) for value in best], 1
            for unit in cheapest_first:
                window = options[unit][_around(options[unit].tolist().index(float(best[unit])), radius)]
                if size * len(window) > PRICED_STRUCTURES:
                    break
                windows[unit], size = window, size * len(window)
            else:
                return windows
            if radius == 1:
                return windows
            radius = (radius + 1) // 2

    def _options(self, unit: int) -> Tensor:
        """Counts that a unit may have, ascending."""
        lowest, total, step = (float(value[unit]) for value in (self.lowest, self.total, self.step))
        return torch.cat([torch.arange(lowest, total, step, dtype=torch.float64), self.total[unit : unit + 1]])

    def _complete(self, counts: Tensor) -> Tensor:
        """Add blocks and widths until not one of them fits any more."""
        full = set[int]()
        counts = self._fill(1.0, counts)
        while (unit := self.blocks.next_in(counts, full)) is not None:
            trial = self._with_blocks(counts, unit, 1)
            if self._fits(trial):
                counts = self._fill(1.0, trial)
            else:
                full.add(unit)
        return counts


def _around(index: int, radius: int) -> slice:
    return slice(max(0, index - radius), index + radius + 1)
