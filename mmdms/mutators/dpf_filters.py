"""Dynamic model pruning with feedback, of whole filters."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BudgetError, ConfigError
from ..masks.channel_masks import Masks
from ..masks.followed import same_state, state_of
from ..masks.mask_bank import MaskBank
from ..mutables import MutableUnit
from ..ops.magnitude import largest
from ..ops.topk import normalized_ranks
from ..registry import MUTATORS
from ..space.search_space import FIXED, SearchSpace
from .base import BaseMutator
from .budgets.fitter import Preference
from .dpf import SCOPES
from .reallocation import Reallocation


@MUTATORS.register_module()
class StructuredDPFMutator(Reallocation, BaseMutator):
    """Prunes whole channels in one training run, to a budget of FLOPs or parameters (structured sparsity).

    A channel is masked in the weights that read it. Those get the gradient of the masked network, so that a channel
    that was removed too early comes back; what produces it waits meanwhile. The score of a channel is the root mean
    square of the weights that read it. Sparsity of the schedule is the share of the cost that is gone; channels are
    removed in the order of their scores until the budget of the moment holds. From ``schedule.settle`` on the
    structure is fixed, on the budget and rounded to the divisor, as in a search.

    Units of heads and of depth keep everything, and so do channels that no weight reads (widths of queries and keys).

    Args:
        budget, divisor, check_ranks_every: see :class:`BaseMutator`.
        mutables: see :class:`BaseMutator`. Kinds of which units keep everything take no options, and none takes
            ``sharpness`` or ``order``: masks are hard, and scores are those of the weights.
        method, reallocation_interval: see :class:`Reallocation`. Rounding to the divisor may bring a channel
            back once, when ``'incremental'`` settles.
        schedule: arguments of :class:`mmdms.mutators.schedule.SparsitySchedule`; ``settle`` is 0.75 by default.
        scope: ``'layer'``: every unit keeps the same share; ``'global'``: scores, over the mean of their unit, are
            compared across all units.

    Raises:
        ConfigError: for values out of range; the message names the key.
    """

    schedule_type = Reallocation.schedule_type
    default_schedule = dict(settle=0.75)

    pruned: Tensor

    def __init__(
        self,
        budget: dict[str, Any],
        method: str = 'feedback',
        schedule: dict[str, float] | None = None,
        reallocation_interval: int = 16,
        scope: str = 'layer',
        divisor: int | str = 'auto',
        check_ranks_every: int = 100,
        mutables: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            method,
            reallocation_interval,
            budget=budget,
            divisor=divisor,
            check_ranks_every=check_ranks_every,
            mutables=mutables,
        )
        if scope not in SCOPES:
            raise ConfigError(f'mutator.scope must be one of {list(SCOPES)}, but it is {scope!r}')
        self.schedule = self.make_schedule(method, schedule)
        self.scope = scope

    @classmethod
    def checked_mutables(
        cls, options: Mapping[str, Any] | None, path: str = 'mutator.mutables'
    ) -> dict[str, MutableUnit]:
        """See :meth:`BaseMutator.checked_mutables`."""
        built = super().checked_mutables(options, path)
        for name, given in (options or {}).items():
            for key in given if isinstance(given, Mapping) else ():
                if key in UNUSED_OPTIONS or not _is_pruned(built[name]):
                    why = 'masks are hard and elements are ranked by the weights that read them'
                    why = why if _is_pruned(built[name]) else f'units of {name} keep everything'
                    raise ConfigError(f'{path}.{name}.{key}={given[key]!r} has no effect in a {cls.__name__}: {why}')
        return built

    def prepare(self, model: nn.Module, space: SearchSpace, mode_of: nn.Module | None = None) -> None:
        """See :meth:`BaseMutator.prepare`."""
        super().prepare(model, space, mode_of)
        try:
            self._choose_units(model, self.space)
        except (BudgetError, ConfigError):
            self.remove()  # the network is free for another try
            raise

    def _choose_units(self, model: nn.Module, space: SearchSpace) -> None:
        read = _read_by_weights(space)
        pruned = torch.tensor([bool(read[space.unit_of_element == unit].all()) for unit in range(len(space.units))])
        pruned &= torch.tensor([_is_pruned(self.mutables[unit.kind]) for unit in space.units])
        if not pruned.any():
            raise ConfigError('there is nothing to prune: no unit of channels is read by weights alone')
        self.register_buffer('pruned', pruned, persistent=False)
        self.divisors = torch.where(pruned, self.divisors, 1)  # the others keep everything: no divisor is in their way
        lowest = float(
            self.relative_cost(self._whole(normalized_ranks(self.totals[self.unit], self.unit, self.totals)))
        )
        if self.target < lowest:
            raise BudgetError(
                f'budget target {self.target:g} of {self.metric} is out of reach: with as few channels '
                f'left as may be, the network still costs {ceil(lowest * 1e4) / 1e4:.4f} of it; ask for at least that'
            )
        parameters = dict(model.named_parameters())
        self.__dict__['_read'] = {
            axis.parameter: parameters[axis.parameter] for axis in space.axes if axis.role == 'in'
        }

    @property
    def final_sparsity(self) -> float:
        """Share of the cost that is gone in the end."""
        return 1 - self.target

    def describe(self) -> str:
        """See :meth:`Mutator.describe`."""
        whole = int((~self.pruned).sum())
        kept = f'{whole} units stay whole (heads, depth, channels that no weight reads)'
        return f'{super().describe()}; {self.method}, {self.scope}; {kept}'

    def _make_masks(self, model: nn.Module, space: SearchSpace) -> Masks:
        return Masks(model, space, self.feedback)

    def _hard_mask(self) -> Tensor:
        return self.final_mask

    def _reallocate(self) -> None:
        scores = self._scores()
        if self.target_now < 1 and self._usable(scores):
            self.final_mask.copy_(self._cheap_enough(scores, self.target_now))
            self._note_reached(self.sparsity_now)

    def _settle(self) -> None:
        if self._usable(self._scores()):
            self.final_mask.copy_(self._fitted())
        self._write('settled', True)
        if self.check_ranks_every:
            self.check_ranks()

    def _preference(self) -> Preference:
        scores = self._scores()
        mask = self._cheap_enough(scores, self.target)
        counts = mask.new_zeros(len(self.totals), dtype=torch.float32).index_add_(0, self.unit, mask.float())
        ranks = normalized_ranks(scores, self.unit, self.totals)
        return Preference(counts / self.totals, ranks, whole=~self.pruned)

    def _whole(self, ranks: Tensor) -> Tensor:
        """Elements that stay whatever the budget, boolean, shape (elements,)."""
        return ~self.pruned[self.unit] | (ranks < (self.minimum / self.totals)[self.unit])

    def refresh_masks(self, masks: MaskBank) -> None:  # type: ignore[override]
        """Set the hard masks, in training too, unless they are there."""
        state = state_of((self.final_mask,), masks.device)
        if not same_state(masks.state, state):
            masks.set(self.final_mask.to(torch.float32), token='hard')
            masks.state = state

    def _scores(self) -> Tensor:
        """Root mean square of the weights that read each element, shape (elements,); 0 if it is gone for good."""
        values = self._values(self.__dict__['_read'])
        sums = torch.zeros(self.space.num_elements + 1, dtype=torch.float64, device=self.unit.device)
        sizes = torch.zeros_like(sums)
        for axis in self.space.axes:
            if axis.role != 'in':
                continue
            value = values[axis.parameter].double()
            others = [dim for dim in range(value.dim()) if dim != axis.dim]
            square = value.square().sum(others) if others else value.square()
            size = torch.full_like(square, value.numel() / len(square))
            for factor in axis.elements.to(sums.device).unbind(1):
                place = torch.where(factor == FIXED, self.space.num_elements, factor)
                sums.index_put_((place,), square, accumulate=True)
                sizes.index_put_((place,), size, accumulate=True)
        scores = (sums / sizes.clamp(min=1)).sqrt()[:-1]
        if self.method == 'incremental':
            scores = scores.masked_fill(~self.final_mask, 0.0)
        return scores

    def _cheap_enough(self, scores: Tensor, target: float) -> Tensor:
        """Mask (elements,) of the best channels, as many as cost at most ``target`` of the supernet."""
        ranks = normalized_ranks(scores, self.unit, self.totals)
        if self.scope == 'layer':
            order = -ranks
        else:
            means = torch.zeros_like(self.totals, dtype=scores.dtype).index_put_((self.unit,), scores, accumulate=True)
            order = scores * (self.totals / means.clamp(min=1e-30))[self.unit]
        whole = self._whole(ranks)
        order = order.masked_fill(whole, torch.inf)
        low, high = int(whole.sum()), len(order)
        while low < high:
            middle = (low + high + 1) // 2
            if float(self.relative_cost(largest(order, middle))) <= target:
                low = middle
            else:
                high = middle - 1
        return largest(order, low)


UNUSED_OPTIONS = ('sharpness', 'order')
"""Options of a kind of units that a search has a use for, and a pruning has none."""


def _is_pruned(kind: MutableUnit) -> bool:
    return kind.pruned_by_magnitude and kind.order == 'importance'


def _read_by_weights(space: SearchSpace) -> Tensor:
    """Elements that a weight reads, so that a mask on it removes them, boolean, shape (elements,)."""
    read = torch.zeros(space.num_elements + 1, dtype=torch.bool)
    for axis in space.axes:
        if axis.role == 'in':
            read[axis.elements.flatten()] = True
    return read[:-1]
