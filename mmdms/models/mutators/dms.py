"""Differentiable model scaling: learns keep ratios and masks a network with them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...budgets.fit import check_budget, fit_to_budget, unit_divisors
from ...engine.schedule import SearchSchedule
from ...errors import ConfigError
from ...ops.importance import moving_average, taylor_importance
from ...ops.topk import hard_mask, normalized_ranks, soft_mask, straight_through
from ...registry import MUTATORS
from ...structure import Structure
from ...tracing.search_space import SearchSpace
from ...masking import MaskRefresh, Masks

SHARPNESS = {'channels': 1.0, 'depth': 4.0}
"""``lambda`` of the soft mask (DMS, implementation details)."""


@MUTATORS.register_module()
class DMSMutator(nn.Module):
    """Searches width and depth by gradient descent on one keep ratio per unit.

    Use: :meth:`prepare` once, then in every step :meth:`set_progress`, a forward
    of the network, and a backward of its loss plus :meth:`budget_loss`;
    :meth:`attach` makes an optimizer step update importance too.
    :meth:`structure` is the result.
    """

    def __init__(
        self,
        budget: dict[str, Any],
        schedule: dict[str, float] | None = None,
        divisor: int | str = 'auto',
        importance_decay: float = 0.99,
        budget_weight: float = 1.0,
        structure_lr: float = 1e-2,
        forward_mask: str = 'hard',
        normalize: str = 'norm',
        project: bool = False,
    ) -> None:
        super().__init__()
        self.metric, self.target = budget['metric'], budget['target']
        self.schedule = SearchSchedule(**(schedule or {}))
        self.divisor = divisor
        self.importance_decay = importance_decay
        self.budget_weight = budget_weight
        self.structure_lr = structure_lr
        self.forward_mask = forward_mask
        self.normalize = normalize
        self.project = project
        self.progress = 0.0
        self.attached = False

    def prepare(self, model: nn.Module, space: SearchSpace) -> None:
        check_budget(space, self.metric, self.target)
        self.space = space
        units = space.units
        self.keep_ratio = nn.Parameter(torch.ones(len(units)))
        self.register_buffer('importance', torch.zeros(space.num_elements))
        self.register_buffer('settled', torch.zeros((), dtype=torch.bool))
        self.register_buffer('final_mask', torch.ones(space.num_elements, dtype=torch.bool))
        self.unit = space.unit_of_element
        self.totals = torch.tensor([u.total for u in units])
        self.minimum = torch.tensor([u.minimum for u in units])
        self.sharpness = torch.tensor([SHARPNESS[u.kind] for u in units])
        self.is_depth = torch.tensor([u.kind == 'depth' for u in units])
        self.table = space.costs[self.metric]
        self.full_cost = self._cost(torch.ones(space.num_elements)).item()
        self.masks = Masks(model, space)
        self._pending = None
        self._ranks = None
        self.__dict__['_model'] = model
        model.register_forward_pre_hook(MaskRefresh(self._on_forward))

    @property
    def ranks(self):
        if self._ranks is None:
            self._ranks = normalized_ranks(self.importance, self.unit, self.totals)
        return self._ranks

    def _cost(self, mask):
        mask = mask.double()
        return self.table(self.space.counts(mask), mask)

    def set_progress(self, progress: float) -> None:
        self.progress = progress
        if self.schedule.phase(progress) == 'settle' and not self.settled:
            mask = fit_to_budget(self.space, self.metric, self.target, self.keep_ratio.detach(), self.ranks, unit_divisors(self.space.units, self.divisor))
            self.final_mask.copy_(mask)
            self.settled.fill_(True)

    def hard(self):
        if self.settled:
            return self.final_mask
        return hard_mask(self.keep_ratio.detach(), self.ranks, self.unit, self.minimum, self.totals)

    def soft(self):
        return soft_mask(self.keep_ratio, self.ranks, self.unit, self.totals, self.sharpness)

    def _on_forward(self):
        self.refresh(self._model.training)

    def refresh(self, training):
        if self.settled or not training or not torch.is_grad_enabled():
            self.masks.set(self.hard().float())
            return
        soft = self.soft()
        if self.forward_mask == 'hard':
            mask = straight_through(self.hard(), soft)
        elif self.forward_mask == 'hardw':  # depth soft
            mask = torch.where(self.is_depth[self.unit], soft, straight_through(self.hard(), soft))
        else:
            mask = soft * 1.0
        self._soft = soft.detach()
        mask.register_hook(self._collect)
        self.masks.set(mask)

    def _collect(self, grad):
        self._pending = grad.detach().clone() if self._pending is None else self._pending + grad.detach()

    def budget_loss(self) -> Tensor:
        if self.settled:
            return torch.zeros(())
        target = self.schedule.target(self.target, self.progress)
        soft = self.soft()
        cost = self._cost(straight_through(self.hard(), soft)) / self.full_cost
        self.soft_cost = cost.item()
        if self.project:
            return torch.zeros(())
        return self.budget_weight * torch.relu(torch.log(cost / target)).float()

    def attach(self, optimizer):
        self.attached = True
        optimizer.add_param_group(dict(params=[self.keep_ratio], lr=self.structure_lr, weight_decay=0.0))
        self.group = optimizer.param_groups[-1]
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    def _before_step(self, *_):
        self.group['lr'] = self.structure_lr
        g = self.keep_ratio.grad
        if g is None: return
        if self.settled:
            self.keep_ratio.grad = None
            return
        if self.schedule.phase(self.progress) == 'refine':
            g[self.is_depth] = 0
        if self.normalize == 'norm':
            g.div_(g.norm() / len(g) ** .5 + 1e-12)
        self.grad_seen = g.clone()

    def _after_step(self, *_):
        if self._pending is not None:
            c = taylor_importance(self._soft, self._pending)
            self.importance.copy_(moving_average(self.importance, c, self.importance_decay))
            self._pending = None
            self._ranks = None
        with torch.no_grad():
            if self.project and not self.settled:
                self._project()
            self.keep_ratio.clamp_(0., 1.)
            low = (0.5 / self.totals) * (self.minimum > 0)
            self.keep_ratio.copy_(torch.maximum(self.keep_ratio, low))

    def _project(self):
        """Move along the gradient of log cost so that soft cost meets target."""
        target = self.schedule.target(self.target, self.progress)
        for _ in range(5):
            with torch.enable_grad():
                a = self.keep_ratio.detach().clone().requires_grad_()
                counts = (a * self.totals).double()
                soft = soft_mask(a, self.ranks, self.unit, self.totals, self.sharpness)
                logc = torch.log(self.table(counts, soft.double()) / self.full_cost / target)
                g, = torch.autograd.grad(logc, a)
            g = g.float()
            if self.schedule.phase(self.progress) == 'refine':
                g[self.is_depth] = 0
            d = g * self.precond() 
            self.keep_ratio -= (logc.item() / (g * d).sum().item()) * d
            self.keep_ratio.clamp_(0.001, 1.)

    def precond(self):
        return 1.0 if self.project is True else self.keep_ratio if self.project == 'mult' else 1.0

    @property
    def settled_cost(self):
        return self._cost(self.final_mask).item() / self.full_cost if self.settled else None

    def losses(self):
        loss = self.budget_loss()
        t = lambda v: torch.tensor(float(v))
        return dict(budget_loss=loss, soft_cost=t(self.settled_cost if self.settled else self.soft_cost), hard_cost=t(self._cost(self.hard()).item() / self.full_cost), target=t(self.schedule.target(self.target, self.progress)))

    def describe(self):
        return f'search space: {len(self.space.units)} units'

    def describe_settled(self):
        return f'structure fixed at {self.settled_cost:.4f}'

    def structure(self) -> Structure:
        if not self.settled:
            self.progress = 1.0
            self.set_progress(1.0)
        return self.space.structure(self.final_mask)
