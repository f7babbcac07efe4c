"""The method as its formulas read, without a thought for speed; a baseline of the benchmark.

Masks multiply activations, every unit compares all pairs of its elements to rank them, and units are walked one by one
in Python, in every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmdms.openmmlab.model_space import build_model_space
from mmdms.space.search_space import FIXED

SHARPNESS = {'channels': 1.0, 'heads': 4.0, 'depth': 4.0}


class Unit:
    """One unit: a learnable keep ratio, and the importance of its elements."""

    def __init__(self, total: int, kind: str, device: torch.device) -> None:
        self.total, self.kind = total, kind
        self.keep_ratio = torch.ones((), device=device, requires_grad=True)
        self.importance = torch.rand(total, device=device)
        self.mask: Tensor = torch.ones(total, device=device)

    def begin(self) -> None:
        """Rank by comparing all pairs; ``m = sigmoid(lambda * N * (a - r))``."""
        rank = (self.importance[None, :] > self.importance[:, None]).float().mean(1)
        self.mask = torch.sigmoid(SHARPNESS[self.kind] * self.total * (self.keep_ratio - rank))
        self.mask.retain_grad()

    def after_backward(self) -> None:
        """Moving average of ``(m * dL/dm)^2``."""
        if self.mask.grad is not None:
            taylor = (self.mask.detach() * self.mask.grad).square()
            self.importance = 0.99 * self.importance + 0.01 * taylor


class Reference:
    """Installs activation masks upon a network."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int], target: float) -> None:
        device = next(model.parameters()).device
        self.space = build_model_space(model, input_shape)
        self.target = target
        self.units = [Unit(u.total, u.kind, device) for u in self.space.units]
        self.table = self.space.costs['flops'].to(device, torch.float32)
        self.full = self.space.cost('flops', torch.ones(self.space.num_elements))
        self.unit_of = self.space.unit_of_element
        for axis in self.space.axes:
            if axis.role == 'in':
                self._mask_input(model.get_submodule(axis.parameter.rpartition('.')[0]), axis.elements[:, 0])
        for element, group in self.space.blocks.items():
            for name in group:
                model.get_submodule(name).register_forward_hook(self._gate(element))
        self.optimizer = torch.optim.SGD([u.keep_ratio for u in self.units], lr=1e-4)

    def begin(self) -> None:
        """Masks of the step that begins."""
        self.optimizer.zero_grad()
        for unit in self.units:
            unit.begin()

    def loss(self) -> Tensor:
        """``log(cost / target)`` while the cost is above the target."""
        mask = torch.cat([unit.mask for unit in self.units])
        counts = torch.stack([unit.mask.sum() for unit in self.units])
        return torch.relu(torch.log(self.table(counts, mask) / self.full / self.target))

    def after_backward(self) -> None:
        """Importance, and a step of the keep ratios."""
        for unit in self.units:
            unit.after_backward()
        self.optimizer.step()
        with torch.no_grad():
            for unit in self.units:
                unit.keep_ratio.clamp_(0, 1)

    def _mask_input(self, module: nn.Module, elements: Tensor) -> None:
        searched = elements != FIXED
        owners = self.unit_of[elements.clamp(min=0)]
        offsets = torch.tensor(self.space.offsets)[owners]
        parts = [(index, owners.eq(index) & searched) for index in owners[searched].unique().tolist()]

        def mask(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0]
            if len(parts) == 1 and bool(searched.all()):
                values = self.units[parts[0][0]].mask[elements - offsets]
            else:
                values = x.new_ones(len(elements))
                for index, where in parts:
                    places = (where.nonzero().flatten(),)
                    values = values.index_put(places, self.units[index].mask[(elements - offsets)[where]])
            dim = 1 if isinstance(module, nn.modules.conv._ConvNd) else x.dim() - 1
            if x.size(dim) != len(values):
                return args
            view = [1] * x.dim()
            view[dim] = -1
            return (x * values.view(view), *args[1:])

        module.register_forward_pre_hook(mask)

    def _gate(self, element: int) -> Any:
        index = int(self.unit_of[element])
        place = element - self.space.offsets[index]

        def gate(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if not isinstance(output, Tensor):
                return output
            return args[0] + self.units[index].mask[place] * (output - args[0])

        return gate
