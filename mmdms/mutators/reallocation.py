"""When a pruning mutator finds its masks anew, and from which scores."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ConfigError
from .mutator import Mutator
from .schedule import SparsitySchedule

logger = logging.getLogger(__name__)

METHODS = ('feedback', 'incremental', 'one-shot', 'snip')


class Reallocation(Mutator):
    """Prunes by magnitude while the network trains.

    - ``'feedback'``: dynamic model pruning with feedback (Lin et al., ICLR 2020, algorithm 1). The optimizer updates
      dense weights by the gradient at the masked ones; every ``reallocation_interval`` steps masks are found anew
      from the dense weights, so that what was removed too early comes back.
    - ``'incremental'``: the same schedule, but masks only grow, and masked weights get no gradient (Zhu & Gupta, "To
      prune, or not to prune", 2017).
    - ``'one-shot'``: plain training up to ``schedule.begin`` (default: half of the run), then all is pruned at once
      and what is left is fine-tuned.
    - ``'snip'``: all is pruned before the first step, by ``|w * dL/dw|`` of the first batch, which trains nothing
      (Lee et al., "SNIP: single-shot network pruning", ICLR 2019).

    Args:
        method: one of the above.
        schedule: arguments of :class:`mmdms.mutators.schedule.SparsitySchedule`; ``begin`` alone of ``'one-shot'``,
            none of ``'snip'``.
        reallocation_interval: steps of the optimizer between two masks.

    Raises:
        ConfigError: for values out of range; the message names the key.
    """

    schedule_type: type = SparsitySchedule
    needs_weights = True
    default_schedule: Mapping[str, float] = {}

    steps: Tensor
    reached: Tensor

    def __init__(self, method: str = 'feedback', reallocation_interval: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if method not in METHODS:
            raise ConfigError(f'mutator.method must be one of {list(METHODS)}, but it is {method!r}')
        if type(reallocation_interval) is not int or reallocation_interval < 1:
            raise ConfigError(
                f'mutator.reallocation_interval must be a number of steps from 1, but it is {reallocation_interval!r}'
            )
        self.method = method
        self.reallocation_interval = reallocation_interval
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))
        self.register_buffer('reached', torch.zeros((), dtype=torch.float64))  # sparsity that masks were found for
        self._steps, self._reached = 0, 0.0  # the same, without asking the device
        self._looked = -1  # step at which masks were last found
        self.register_load_state_dict_post_hook(_read_state)

    @classmethod
    def make_schedule(cls, method: str, given: Mapping[str, float] | None) -> SparsitySchedule:
        """The schedule of a method.

        Raises:
            ConfigError: for a time that the method does not have, or times that do not add up.
        """
        taken = {'one-shot': ['begin'], 'snip': []}.get(method, ['begin', 'end', 'settle', 'initial'])
        for key in given or {}:
            if key not in taken:
                raise ConfigError(
                    f'schedule.{key} is no setting of method={method!r}: it takes {", ".join(taken) or "none"}'
                )
        if method == 'snip':
            return SparsitySchedule(0.0, 0.0, 0.0)
        if method == 'one-shot':
            begin = (given or {}).get('begin', 0.5)
            return SparsitySchedule(begin, begin, begin)
        return SparsitySchedule(**{**cls.default_schedule, **(given or {})})

    @classmethod
    def check_schedule(cls, settings: Mapping[str, Any]) -> None:
        """See :meth:`Mutator.check_schedule`; what a method has times for differs."""
        cls.make_schedule(settings.get('method', 'feedback'), settings['schedule'])

    def attach(self, optimizer: Optimizer) -> None:
        """See :meth:`Mutator.attach`; a step that is skipped (an overflow in mixed precision) does not count."""
        super().attach(optimizer)

    def _add_hooks(self, optimizer: Optimizer) -> None:
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def set_progress(self, progress: float) -> None:
        """State how much of the run is done, in [0, 1]; call it before every step.

        Masks are found anew where it is time for it. In a distributed run every process must call this.
        """
        self._note_progress(progress)
        if self._number('settled') or self.method == 'snip':
            return
        if self.schedule.phase(progress) == 'settle':
            self._settle()
            return
        # A schedule that ends between two masks is met where it ends: the run may be over before the next.
        ended = self.phase == 'refine' and self._reached < self.final_sparsity
        due = ended or self._steps % self.reallocation_interval == 0
        # Batches whose gradients are accumulated see one mask: they are one step.
        if due and self._steps != self._looked:
            self._looked = self._steps
            self._reallocate()

    @property
    def phase(self) -> str:
        """``'shrink'``, ``'refine'`` or ``'settle'``."""
        return self.schedule.phase(self.progress)

    @property
    @abstractmethod
    def final_sparsity(self) -> float:
        """Share that is pruned in the end, in [0, 1)."""

    @property
    def sparsity_now(self) -> float:
        """Share that should be pruned by now."""
        return self.schedule.sparsity(self.final_sparsity, self.progress)

    @property
    def feedback(self) -> bool:
        """Whether masked weights get the gradient of the masked network."""
        return self.method == 'feedback'

    @abstractmethod
    def _reallocate(self) -> None:
        """Find the masks of the moment."""

    @abstractmethod
    def _settle(self) -> None:
        """Find the masks of the end, if they are not there yet, and set ``settled``."""

    def _note_reached(self, sparsity: float) -> None:
        self._reached = sparsity
        self.reached.fill_(sparsity)

    def _values(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """What says how much weights matter, by name: the dense weights, or ``w * dL/dw`` of SNIP."""
        if self.method != 'snip':
            return {name: weight.detach() for name, weight in weights.items()}
        return {
            name: weight.detach() * (0 if weight.grad is None else weight.grad) for name, weight in weights.items()
        }

    def _usable(self, scores: Tensor) -> bool:
        """Whether scores are finite; if not, says that masks stay as they are."""
        if bool(torch.isfinite(scores).all()):
            return True
        logger.warning(
            f'weights or gradients are not finite at progress {self.progress:.4f}: masks stay as they are, and the '
            'network will not recover; go on from an earlier checkpoint with a smaller learning rate'
        )
        return False

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._follows(optimizer) or self.method != 'snip' or self._number('settled') or _skipped(optimizer):
            return
        self._settle()
        for group in optimizer.param_groups:
            for parameter in group['params']:
                parameter.grad = None  # an optimizer leaves such parameters, and what it keeps of them, alone

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._follows(optimizer) or _skipped(optimizer):
            return
        if not self._number('settled'):
            self.watch.stepped()
        self._steps += 1
        self.steps.fill_(self._steps)
        if self.check_ranks_every and self._steps % self.check_ranks_every == 0:
            self.check_ranks()


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer was handed a step that overflowed, which it skips itself."""
    found = getattr(optimizer, 'found_inf', None)
    return found is not None and bool(found)


def _read_state(module: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(module, Reallocation)
    module._steps, module._reached = int(module.steps), float(module.reached)
