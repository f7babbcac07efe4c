"""Differentiable model scaling: one learnable keep ratio per unit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ConfigError, StructureError
from ..ops.importance import moving_average, taylor_importance
from ..ops.topk import hard_mask, normalized_ranks, soft_mask
from ..registry import MUTATORS
from ..space.search_space import SearchSpace
from .base import BaseMutator
from .budgets.fitter import Fitter, Preference
from .budgets.projection import project_to_budget
from .collectives import all_reduce, world_size
from .loop_watch import remedy

logger = logging.getLogger(__name__)

REFINED_SHARPNESS = 8.0
"""Factor by which ``lambda`` has grown at the end of the refine phase."""


@MUTATORS.register_module()
class DMSMutator(BaseMutator):
    """Searches width and depth by gradient descent on keep ratios.

    In a hand-written loop: :meth:`prepare` and :meth:`attach` once, then
    :meth:`set_progress` before every step; the network masks itself, and every
    step of the optimizer moves the structure too. :meth:`structure` is the result.

    The gradient of the task loss with respect to the masks gives both the
    importance of elements and, through the soft top-k, the gradient of the keep
    ratios. That gradient is scaled to unit root mean square, followed with
    momentum, and the keep ratios are then brought onto the budget target of the
    moment (see :func:`mmdms.mutators.budgets.projection.project_to_budget`).

    While the budget falls, masks are soft. In the refine phase blocks are kept
    or gone for good and the masks of channels grow sharper, so that little is
    left to change when the structure is fixed. Where so many blocks are gone
    that even full widths cost less than the target, some return first.

    Args:
        budget, schedule, divisor, check_ranks_every, mutables: see :class:`BaseMutator`.
        structure_lr: keep ratio that a unit of average gradient moves over the whole
            search, before momentum; a step moves its share of progress of it. So
            it is constant over a run, and a longer run averages more noise away
            instead of wandering further.
        structure_momentum: in [0, 1).
        importance_decay: of the moving average of Taylor importance, in [0, 1).

    Raises:
        ConfigError: for values out of range; the message names the key.
    """

    keep_ratio: Tensor
    velocity: Tensor
    importance: Tensor
    sharpness: Tensor
    floor: Tensor
    by_position: Tensor
    last_progress: Tensor

    def __init__(
        self,
        budget: dict[str, Any],
        schedule: dict[str, float] | None = None,
        divisor: int | str = 'auto',
        structure_lr: float = 1.5,
        structure_momentum: float = 0.9,
        importance_decay: float = 0.99,
        check_ranks_every: int = 100,
        mutables: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(budget, schedule, divisor, check_ranks_every, mutables)
        if structure_lr < 0:
            raise ConfigError(f'mutator.structure_lr must not be negative, but it is {structure_lr!r}')
        for name, value in (('structure_momentum', structure_momentum), ('importance_decay', importance_decay)):
            if not 0 <= value < 1:
                raise ConfigError(f'mutator.{name} must be in [0, 1), but it is {value!r}')
        self.structure_lr = structure_lr
        self.structure_momentum = structure_momentum
        self.importance_decay = importance_decay
        self._ranked: tuple[Any, Tensor] | None = None
        self._gradient: Tensor | None = None  # of the task loss with respect to the masks, summed over micro-batches
        self._steps = 0  # of this process
        self._faults = 0  # steps in a row whose gradient could not be used
        self._informed = False  # whether any gradient has told elements apart
        self.register_load_state_dict_post_hook(_read_progress)

    def prepare(self, model: nn.Module, space: SearchSpace, mode_of: nn.Module | None = None) -> None:
        """See :meth:`BaseMutator.prepare`."""
        super().prepare(model, space, mode_of)
        units, elements = len(self.space.units), self.space.num_elements
        self.register_buffer('keep_ratio', torch.ones(units))
        self.register_buffer('velocity', torch.zeros(units))
        self.register_buffer('importance', torch.zeros(elements))
        self.register_buffer('last_progress', torch.zeros((), dtype=torch.float64))
        kinds = [self.mutables[unit.kind] for unit in self.space.units]
        self.register_buffer('sharpness', torch.tensor([kind.sharpness for kind in kinds]), persistent=False)
        by_position = torch.tensor([kind.order == 'position' for kind in kinds])
        self.register_buffer('by_position', by_position[self.unit], persistent=False)
        # Below half an element the hard mask would be empty: a channel unit keeps one.
        self.register_buffer('floor', (self.minimum - 0.5).clamp(min=0.0) / self.totals, persistent=False)

    def attach(self, optimizer: Optimizer) -> None:
        """Move the structure with every step of ``optimizer``.

        The keep ratios are no parameters of the optimizer: weight decay,
        gradient clipping and schedules of the weights do not reach them. What a
        backward pass says of the masks lives as long as the gradients of the
        weights: a step that is skipped (an overflow in mixed precision) moves
        neither, and ``zero_grad`` forgets both.
        """
        super().attach(optimizer)

    def _add_hooks(self, optimizer: Optimizer) -> None:
        optimizer.register_step_post_hook(self._on_step)
        zero_grad = optimizer.zero_grad

        def zero_both(*args: Any, **kwargs: Any) -> None:
            if self._follows(optimizer):
                self._gradient = None
            zero_grad(*args, **kwargs)

        optimizer.zero_grad = zero_both  # type: ignore[method-assign]  # optimizers have no hook for it

    @property
    def network(self) -> str:
        """See :attr:`Mutator.network`; ``'whole'`` until the first step, as weights are those of no masks then."""
        if self._number('settled'):
            return 'final'
        if not bool(self.importance.any()):
            return 'whole'
        return 'hard' if self.evaluate_hard else 'soft'

    @torch.no_grad()
    def update(self) -> None:
        """One step of importance and keep ratios from the gradients of the last backward passes.

        In a distributed run every process must call this at every step.

        Raises:
            StructureError: the processes hold different structures; looked at every ``check_ranks_every`` steps.
        """
        gradient, self._gradient = self._gradient, None
        if self.check_ranks_every and self._steps % self.check_ranks_every == 0:
            self.check_ranks()
        self._steps += 1
        if self._number('settled'):
            return
        self.watch.stepped()
        gradient = self._reduced(gradient)
        if gradient is None:
            self.watch.unmoved(self.__dict__['_mode_of'])
            return
        mask, slope = self._soft_mask_gradient(gradient)
        if self.phase == 'refine':
            slope = slope.masked_fill(self.is_depth, 0.0)
        size = slope.square().mean().sqrt()
        taylor = taylor_importance(mask, gradient)
        # Neither may be NaN or Inf: both would stay in the moving averages for good.
        if not bool(torch.isfinite(taylor).all() & torch.isfinite(size)):
            self._report_fault()
            return
        self._faults = 0
        importance = moving_average(self.importance, taylor, self.importance_decay)
        if self.phase == 'refine':  # blocks are kept or gone for good: nothing is learnt of them any more
            importance = torch.where(self.is_depth[self.unit], self.importance, importance)
        self.importance.copy_(importance)
        if not self._informed:
            self._informed = bool(importance.any())
            if not self._informed:
                self.watch.without_importance()
        if self.phase == 'refine' and self.schedule.phase(self._number('last_progress')) == 'shrink':
            self._return_blocks()
        self.velocity.mul_(self.structure_momentum).add_(slope / size.clamp(min=1e-12))
        if self.phase == 'refine':
            self.velocity.masked_fill_(self.is_depth, 0.0)  # what it had of the phase before would move them on
        rate = self.structure_lr * max(0.0, self.progress - self._number('last_progress'))
        self._write('last_progress', self.progress)
        moved = torch.maximum(self.keep_ratio - rate * self.velocity, self.floor).clamp(max=1.0)
        self.keep_ratio.copy_(self._onto_budget(moved))

    def _on_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._follows(optimizer):
            return
        # Fused optimizers are handed a step that overflowed too, with this flag, and skip it themselves.
        skipped = getattr(optimizer, 'found_inf', None)
        if skipped is not None and bool(skipped):
            self._gradient = None
            return
        self.update()

    def _reduced(self, gradient: Tensor | None) -> Tensor | None:
        """Mean gradient over all processes, by one collective; None if no process has any.

        A process without one (its batch used no mask) takes part with zeros: left out, it would hang the others.
        """
        processes = world_size()
        if processes == 1:
            return gradient
        had = gradient is not None
        if gradient is None:
            gradient = torch.zeros_like(self.importance)
        payload = torch.cat([gradient, gradient.new_full((1,), float(had))])
        all_reduce(payload, 'sum')
        return payload[:-1] / processes if float(payload[-1]) > 0 else None

    def _report_fault(self) -> None:
        """Warn of the 1st, 2nd, 4th, 8th ... step in a row: a run whose weights are NaN would fill its log."""
        self._faults += 1
        if self._faults & (self._faults - 1):
            return
        again = f', now for {self._faults} steps in a row' if self._faults > 1 else ''
        logger.warning(
            f'the gradient of the masks is not finite at progress {self.progress:.4f}{again}: structure and '
            'importance stay as they are. The weights are left to the optimizer wrapper: AmpOptimWrapper skips such '
            'a step, OptimWrapper takes it, and what became NaN then stays NaN'
        )

    def _onto_budget(self, keep_ratio: Tensor) -> Tensor:
        ranks = self._ranks()

        def log_cost(probe: Tensor) -> Tensor:
            return torch.log(self.relative_cost(self._soft(probe, ranks)))

        movable = ~self.is_depth if self.phase == 'refine' else torch.ones_like(self.is_depth)
        log_target = float(torch.log(torch.tensor(self.target_now, dtype=torch.float64)))
        return project_to_budget(keep_ratio, log_cost, log_target, self.floor, movable.to(keep_ratio.dtype))

    def _soft_mask_gradient(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Soft mask (elements,), and the gradient of the keep ratios (units,) from that of the masks."""
        with torch.enable_grad():
            probe = self.keep_ratio.clone().requires_grad_()
            mask = self._soft(probe, self._ranks())
            (slope,) = torch.autograd.grad(mask, probe, gradient.to(mask.dtype))
        return mask.detach().to(gradient.dtype), slope

    def _return_blocks(self) -> None:
        """Bring back the blocks without which no widths cost as much as the budget allows."""
        searched = dict(keep_ratio=self.keep_ratio, ranks=self._ranks(), importance=self.importance)
        bounds = dict(divisors=self.divisors, minimum=self.minimum)
        fitter = Fitter(self.space, self.metric, self.target, **bounds, **searched)
        kept = fitter.depth_within_reach().to(self.keep_ratio)
        self.keep_ratio.copy_(torch.where(self.is_depth & (kept > self.keep_ratio), kept, self.keep_ratio))

    def _ranks(self) -> Tensor:
        # A step asks several times between two writes to the importance: one sort serves them all.
        written = (id(self.importance), self.importance._version)
        if self._ranked is None or self._ranked[0] != written:
            # Elements of equal importance are ranked by position.
            importance = self.importance.masked_fill(self.by_position, 0.0)
            self._ranked = written, normalized_ranks(importance, self.unit, self.totals)
        return self._ranked[1]

    def _soft(self, keep_ratio: Tensor, ranks: Tensor) -> Tensor:
        """Soft mask (elements,), in float64: PyTorch sums the gradients of a large float32 index in no fixed order."""
        keep_ratio = keep_ratio.double()
        if self.phase == 'shrink':
            return soft_mask(keep_ratio, ranks, self.unit, self.totals, self.sharpness)
        sharpness = self.sharpness * REFINED_SHARPNESS ** self.schedule.refined(self.progress)
        mask = soft_mask(keep_ratio, ranks, self.unit, self.totals, sharpness)
        hard = hard_mask(keep_ratio, ranks, self.unit, self.minimum, self.totals)
        return torch.where(self.is_depth[self.unit], hard.to(mask.dtype), mask)

    def _hard_mask(self) -> Tensor:
        return hard_mask(self.keep_ratio, self._ranks(), self.unit, self.minimum, self.totals)

    def _training_mask(self) -> Tensor:
        mask = self._soft(self.keep_ratio, self._ranks()).detach().to(self.keep_ratio.dtype).requires_grad_()
        mask.register_hook(self._collect)
        return mask

    def _evaluation_mask(self) -> Tensor:
        if self.network == 'soft':
            return self._soft(self.keep_ratio, self._ranks()).to(self.keep_ratio.dtype)
        return super()._evaluation_mask()

    def _known_masks(self) -> dict[int, float] | None:
        blocks = list(self.space.blocks)
        if self.phase == 'shrink' or not blocks:
            return None
        return dict(zip(blocks, self._hard_mask()[torch.tensor(blocks)].float().tolist(), strict=True))

    def _collect(self, gradient: Tensor) -> None:
        gradient = gradient.detach() / self.loss_scale  # of the moment: the next micro-batch may have another
        self._gradient = gradient if self._gradient is None else self._gradient + gradient

    def _agreed(self) -> dict[str, Tensor]:
        progress = self.last_progress.expand(len(self.totals))
        own = {'its keep ratio': self.keep_ratio, 'its velocity': self.velocity, 'its importance': self.importance}
        return {**own, 'how far its search is': progress, **super()._agreed()}

    def _soft_cost(self) -> Tensor:
        return self.relative_cost(self._soft(self.keep_ratio, self._ranks()))

    def _preference(self) -> Preference:
        if not bool(self.importance.any()) and not self._number('last_progress') > 0:
            raise StructureError(
                'there is no importance to choose a structure by: '
                f'{remedy(self.watch, self.attached, self.__dict__["_mode_of"])}. For a structure by the magnitude of '
                'the weights alone, without training, use mmdms.StructuredDPFMutator'
            )
        return Preference(self.keep_ratio, self._ranks(), self.importance)


def _read_progress(module: nn.Module, incompatible_keys: Any) -> None:
    """A checkpoint that is evaluated, and trains no further, is evaluated under the masks of its own progress."""
    assert isinstance(module, DMSMutator)
    module.progress = float(module._number('last_progress'))
