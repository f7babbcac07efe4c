"""Differentiable model scaling: one learnable keep ratio per unit."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.optim import Optimizer

from ...budgets.project import project_to_budget
from ...errors import ConfigError
from ...ops.importance import moving_average, taylor_importance
from ...ops.topk import hard_mask, normalized_ranks, soft_mask
from ...registry import MUTATORS
from ...tracing.search_space import SearchSpace
from .base import BaseMutator

SHARPNESS = {'channels': 1.0, 'heads': 4.0, 'depth': 4.0}
"""``lambda`` of the soft mask by kind of unit (DMS)."""

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
    moment (see :func:`mmdms.budgets.project.project_to_budget`).

    While the budget falls, masks are soft. In the refine phase blocks are kept
    or gone for good and the masks of channels grow sharper, so that little is
    left to change when the structure is fixed.

    Args:
        budget, schedule, divisor: see :class:`BaseMutator`.
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
    last_progress: Tensor

    def __init__(
        self,
        budget: dict[str, Any],
        schedule: dict[str, float] | None = None,
        divisor: int | str = 'auto',
        structure_lr: float = 1.5,
        structure_momentum: float = 0.9,
        importance_decay: float = 0.99,
    ) -> None:
        super().__init__(budget, schedule, divisor)
        if structure_lr < 0:
            raise ConfigError(f'mutator.structure_lr must not be negative, but it is {structure_lr!r}')
        for name, value in (('structure_momentum', structure_momentum), ('importance_decay', importance_decay)):
            if not 0 <= value < 1:
                raise ConfigError(f'mutator.{name} must be in [0, 1), but it is {value!r}')
        self.structure_lr = structure_lr
        self.structure_momentum = structure_momentum
        self.importance_decay = importance_decay
        self.loss_scale = 1.0
        self._gradient: Tensor | None = None  # of the task loss with respect to the masks, summed over micro-batches

    def prepare(self, model: nn.Module, space: SearchSpace, mode_of: nn.Module | None = None) -> None:
        """See :meth:`BaseMutator.prepare`."""
        super().prepare(model, space, mode_of)
        self.register_buffer('keep_ratio', torch.ones(len(space.units)))
        self.register_buffer('velocity', torch.zeros(len(space.units)))
        self.register_buffer('importance', torch.zeros(space.num_elements))
        self.register_buffer('last_progress', torch.zeros((), dtype=torch.float64))
        sharpness = torch.tensor([SHARPNESS[u.kind] for u in space.units])
        self.register_buffer('sharpness', sharpness, persistent=False)
        # Below half an element the hard mask would be empty: a channel unit keeps one.
        self.register_buffer('floor', 0.5 * self.minimum / self.totals, persistent=False)

    def attach(self, optimizer: Optimizer) -> None:
        """Move the structure with every step of ``optimizer``.

        The keep ratios are no parameters of the optimizer: weight decay,
        gradient clipping and schedules of the weights do not reach them, and a
        step that is skipped (an overflow in mixed precision) moves neither.
        """
        optimizer.register_step_post_hook(self._on_step)
        self.attached = True

    @torch.no_grad()
    def update(self) -> None:
        """One step of importance and keep ratios from the gradients of the last backward passes."""
        gradient, self._gradient = self._gradient, None
        if self.settled or gradient is None:
            return
        gradient = gradient / self.loss_scale
        if get_world_size() > 1:
            all_reduce(gradient, op='mean')
        if not torch.isfinite(gradient).all():
            message = f'the gradient of the masks is not finite at progress {self.progress:.4f}: the structure stays'
            print_log(message, logger='current', level=logging.WARNING)
            return
        mask, slope = self._soft_mask_gradient(gradient)
        self.importance.copy_(
            moving_average(self.importance, taylor_importance(mask, gradient), self.importance_decay)
        )
        if self.phase == 'refine':
            slope = slope.masked_fill(self.is_depth, 0.0)
        slope = slope / slope.square().mean().sqrt().clamp(min=1e-12)
        self.velocity.mul_(self.structure_momentum).add_(slope)
        rate = self.structure_lr * float(self.progress - self.last_progress)
        self.last_progress.fill_(self.progress)
        moved = torch.maximum(self.keep_ratio - rate * self.velocity, self.floor).clamp(max=1.0)
        self.keep_ratio.copy_(self._onto_budget(moved))

    def _on_step(self, *_: Any) -> None:
        self.update()

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
            (slope,) = torch.autograd.grad(mask, probe, gradient)
        return mask.detach(), slope

    def _ranks(self) -> Tensor:
        return normalized_ranks(self.importance, self.unit, self.totals)

    def _soft(self, keep_ratio: Tensor, ranks: Tensor) -> Tensor:
        if self.phase == 'shrink':
            return soft_mask(keep_ratio, ranks, self.unit, self.totals, self.sharpness)
        sharpness = self.sharpness * REFINED_SHARPNESS ** self.schedule.refined(self.progress)
        mask = soft_mask(keep_ratio, ranks, self.unit, self.totals, sharpness)
        hard = hard_mask(keep_ratio, ranks, self.unit, self.minimum, self.totals)
        return torch.where(self.is_depth[self.unit], hard.to(mask.dtype), mask)

    def _hard_mask(self) -> Tensor:
        return hard_mask(self.keep_ratio, self._ranks(), self.unit, self.minimum, self.totals)

    def _training_mask(self) -> Tensor:
        mask = self._soft(self.keep_ratio, self._ranks()).detach().requires_grad_()
        mask.register_hook(self._collect)
        return mask

    def _collect(self, gradient: Tensor) -> None:
        self._gradient = gradient.detach() if self._gradient is None else self._gradient + gradient.detach()

    def _soft_cost(self) -> Tensor:
        return self.relative_cost(self._soft(self.keep_ratio, self._ranks()))

    def _preference(self) -> tuple[Tensor, Tensor]:
        return self.keep_ratio, self._ranks()
