"""What every mutator does: hold masks on a network and end with a structure that meets the budget."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..masks.channel_masks import Masks
from ..masks.followed import gradients_wanted, same_state, state_of
from ..masks.mask_bank import MaskBank
from ..mutables import MutableUnit, build_mutables, left_out
from ..space.outcome import BudgetOutcome
from ..space.search_space import SearchSpace
from ..space.structure import Structure
from .agreement import check_agreement
from .budgets.fit import check_budget, fit_to_budget, unit_divisors
from .budgets.fitter import Preference
from .budgets.outcome import outcome_of
from .left_out import with_whole_units, without_kinds
from .mutator import Mutator, SpaceOf
from .schedule import SearchSchedule

logger = logging.getLogger(__name__)


class BaseMutator(Mutator):
    """Masks units of a network during a search.

    The network itself is not changed by the caller's leave: its parameters keep
    their names, and masks follow every forward pass, in training and in
    evaluation equally: soft or hard until the structure is fixed, then hard.

    Args:
        budget: ``dict(metric='flops' | 'params', target=share)``: the subnet
            costs at most ``target``, in (0, 1], of the supernet.
        schedule: arguments of :class:`mmdms.mutators.schedule.SearchSchedule`.
        divisor: widths are rounded to multiples of it; ``'auto'`` is 8 where widths allow.
        check_ranks_every: see :class:`Mutator`.
        mutables: options per kind of units, and kinds that are left out, as
            ``dict(heads=dict(sharpness=2.0), depth=False)``; see :class:`mmdms.mutables.MutableUnit` for the options.

    Attributes:
        space: what is searched: the space that was prepared, without units of the kinds that are left out, which
            are listed as frozen.

    Raises:
        ConfigError: for values out of range; the message names the key.
    """

    schedule_type: type = SearchSchedule

    final_mask: Tensor
    unit: Tensor
    totals: Tensor
    minimum: Tensor
    is_depth: Tensor

    def __init__(
        self,
        budget: dict[str, Any],
        schedule: dict[str, float] | None = None,
        divisor: int | str = 'auto',
        check_ranks_every: int = 100,
        mutables: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(check_ranks_every)
        if not isinstance(budget, dict) or set(budget) != {'metric', 'target'}:
            raise ConfigError(f"mutator.budget must be dict(metric='flops', target=0.5), but it is {budget!r}")
        self.metric: str = budget['metric']
        self.target: float = budget['target']
        self.schedule = self.schedule_type(**(schedule or {}))
        self.divisor = divisor
        self.mutables = self.checked_mutables(mutables)
        self.left_out = left_out(mutables)

    @classmethod
    def checked_mutables(
        cls, options: Mapping[str, Any] | None, path: str = 'mutator.mutables'
    ) -> dict[str, MutableUnit]:
        """Every kind of units with its options; raises ``ConfigError`` for one that this mutator cannot use."""
        return build_mutables(options, path)

    def survey(
        self, model: nn.Module, space_of: SpaceOf, include: Iterable[str], exclude: Iterable[str]
    ) -> SearchSpace:
        """The search space of a network, as ``space_of`` builds it."""
        return space_of(model, include, exclude)

    def prepare(self, model: nn.Module, space: SearchSpace, mode_of: nn.Module | None = None) -> None:
        """Install masks on ``model``.

        Args:
            model: the network that ``space`` was built from.
            space: what may be removed from it.
            mode_of: the structure is searched while this module is in training
                mode; ``model`` if None. It differs where weights are frozen and
                the network stays in evaluation mode.

        Raises:
            ConfigError, BudgetError: if the budget cannot be met in this space.
        """
        self._given = space
        space = without_kinds(space, self.left_out)
        if not space.units:
            raise ConfigError('there is nothing to search: every element of the network is frozen or left out')
        self._check_free(model)
        minimum = torch.tensor([self.mutables[unit.kind].fewest(unit.total) for unit in space.units])
        check_budget(space, self.metric, self.target, minimum)
        self._install(model, self._make_masks(model, space), mode_of)
        self.space = space
        self.divisors = unit_divisors(space.units, self.divisor, self.mutables)
        self.register_buffer('settled', torch.zeros((), dtype=torch.bool))
        self.register_buffer('final_mask', torch.ones(space.num_elements, dtype=torch.bool))
        units = space.units
        for name, value in dict(
            unit=space.unit_of_element,
            totals=torch.tensor([u.total for u in units]),
            minimum=minimum,
            is_depth=torch.tensor([u.mutable.gates_modules for u in units]),
        ).items():
            self.register_buffer(name, value, persistent=False)
        self._table = space.costs[self.metric]
        self._full_cost = space.cost(self.metric, torch.ones(space.num_elements))

    @property
    def target_now(self) -> float:
        """Share of the cost that the search should have reached by now."""
        return self.schedule.target(self.target, self.progress)

    @property
    def phase(self) -> str:
        """``'shrink'``, ``'refine'`` or ``'settle'``."""
        return self.schedule.phase(self.progress)

    def set_progress(self, progress: float) -> None:
        """State how much of the search is done, in [0, 1]; call it before every step.

        Entering the settle phase fixes the structure, on the budget and rounded
        to the divisor; what trains from then on is exactly what is exported.
        """
        self._note_progress(progress)
        if self.phase == 'settle' and not self._number('settled'):
            self.final_mask.copy_(self._fitted())
            self._write('settled', True)
            if self.check_ranks_every:
                self.check_ranks()

    def check_ranks(self) -> None:
        """Raise ``StructureError`` unless all processes hold the same structure, bit for bit; all must call this."""
        check_agreement(self._agreed(), self.unit, [unit.name for unit in self.space.units])

    def hard_mask(self) -> Tensor:
        """Elements that stay as things are, boolean, shape (elements,)."""
        return self.final_mask if self._number('settled') else self._hard_mask()

    def structure(self) -> Structure:
        """The structure of the subnet: as fixed, or what would be fixed now.

        It is one of the space that was prepared: units of kinds that are left out of the search are whole in it.
        Its ``budget`` (:class:`mmdms.space.outcome.BudgetOutcome`) says whether it costs the target within 1%,
        or that it is the nearest one found, and why there is none nearer.
        """
        mask = self.final_mask if self._number('settled') else self._fitted()
        structure = with_whole_units(self.space.structure(mask), self._given)
        structure.budget = self._outcome(mask)
        return structure

    def relative_cost(self, mask: Tensor) -> Tensor:
        """Share of the supernet's cost of masks (elements,), hard or soft; differentiable."""
        mask = mask.to(torch.float64)
        table = self._table = self._table.to(mask.device)
        # Not index_add: on a GPU its sum depends on chance, and the processes of a run would part in the last bit.
        counts = mask.new_zeros(len(self.totals)).index_put((self.unit,), mask, accumulate=True)
        return table(counts, mask) / self._full_cost

    @torch.no_grad()
    def losses(self) -> dict[str, Tensor]:
        """For the log: the budget loss ``max(0, log(cost / target))`` and the costs behind it."""
        hard = self.relative_cost(self.hard_mask())
        soft = hard if self._number('settled') else self._soft_cost()
        target = torch.tensor(self.target_now, dtype=torch.float64, device=soft.device)
        loss = torch.relu(torch.log(soft / target))
        values = dict(budget_loss=loss, soft_cost=soft, hard_cost=hard, target=target)
        return {name: value.float() for name, value in values.items()}  # beside a task loss, of its type

    def describe(self) -> str:
        """One line about the search."""
        units = self.space.units
        depth = sum(unit.mutable.gates_modules for unit in units)
        whole = len(self._given.units) - len(units)
        return (
            f'search space: {len(units)} units ({depth} of depth), {self.space.num_elements} elements; '
            f'{self.metric} from {self._full_cost:,.0f} to {self.target:g} of it; '
            f'{len(self.space.frozen)} frozen parts'
            + (f', {whole} of them units left out of the search ({", ".join(self.left_out)})' if whole else '')
        )

    def describe_structure(self) -> str:
        """One line about the structure that was fixed."""
        return f'structure fixed: {self._outcome(self.final_mask)}'

    def describe_network(self) -> str:
        """See :meth:`Mutator.describe_network`."""
        phase = 'settle' if self._number('settled') else self.phase
        cost = float(self.relative_cost(self._evaluation_mask()))
        text = f'the {self.network} network (phase {phase}, {cost:.4f} of the {self.metric})'
        return f'{text}, which is the one that is exported' if self._number('settled') else text

    def _agreed(self) -> dict[str, Tensor]:
        """What all processes must hold alike, by name: shape (units,) or (elements,)."""
        settled = self.settled.expand(len(self.totals))
        return {'whether its structure is fixed': settled, 'its structure as fixed': self.final_mask}

    def _make_masks(self, model: nn.Module, space: SearchSpace) -> Masks:
        return Masks(model, space)

    @abstractmethod
    def _hard_mask(self) -> Tensor:
        """Current hard mask while nothing is settled."""

    def _evaluation_mask(self) -> Tensor:
        """Mask of an evaluation: the network that trains, whose norm statistics are those of its own masks."""
        return self.hard_mask().to(torch.float32)

    @abstractmethod
    def _training_mask(self) -> Tensor:
        """Mask of a training step, with whatever gradients are wanted."""

    def _known_masks(self) -> dict[int, float] | None:
        """Elements whose mask in a training step is a plain number, of which nothing is learnt."""
        return None

    @abstractmethod
    def _preference(self) -> Preference:
        """Searched keep ratio per unit and rank per element, from which a structure is fixed."""

    def _soft_cost(self) -> Tensor:
        return self.relative_cost(self._hard_mask())

    def _fitted(self) -> Tensor:
        preference = self._preference()._asdict()
        bounds = dict(divisors=self.divisors, minimum=self.minimum)
        mask = fit_to_budget(self.space, self.metric, self.target, **bounds, **preference)
        outcome = self._outcome(mask)
        if not outcome.within:
            logger.warning(f'the budget is not met within 1%: {outcome}')
        return mask.to(self.final_mask.device)

    def _outcome(self, mask: Tensor) -> BudgetOutcome:
        return outcome_of(self.space, self.metric, self.target, mask, self.divisors, self.minimum)

    def refresh_masks(self, masks: MaskBank) -> None:  # type: ignore[override]
        """See :meth:`Mutator.refresh_masks`."""
        own = masks is self.masks.bank  # a copy of the network is no part of the search
        training = own and self.__dict__['_mode_of'].training and gradients_wanted()
        settled = self._number('settled')
        # The masks of a fixed structure stay whatever the progress: they are gathered, and looked at, once.
        moment = None if settled else (self.progress, self.evaluate_hard)
        state = state_of(self._buffers.values(), training, moment, masks.device)
        if same_state(masks.state, state):
            return
        if training and not settled:
            masks.set(self._training_mask(), known=self._known_masks())
        elif training and not any(p.requires_grad for p in self.__dict__['_model'].parameters()):
            # Frozen weights and a fixed structure: a loss must still have a gradient.
            masks.set(self.hard_mask().to(torch.float32).requires_grad_())
        else:
            masks.set(self._evaluation_mask(), token='evaluation')
        masks.state = state
