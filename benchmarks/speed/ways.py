"""Ways to take a training step: plainly, in a search, as the paper's formulas read, and as Torch-Pruning does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from mmdms.network.copying import copy_network
from mmdms.openmmlab.algorithm import DMSAlgorithm

from .reference import Reference
from .timing import Step

TARGET = 0.5
"""Budget of every search: half of the FLOPs."""

PROGRESS = dict(shrink=0.3, refine=0.7, settle=0.95)
"""Progress at which each phase of a search is timed."""

PRUNING = {
    'dpf': dict(type='mmdms.DPFMutator', sparsity=0.9),
    'dpf-filters': dict(type='mmdms.StructuredDPFMutator', budget=dict(metric='flops', target=TARGET)),
}
"""Mutators that prune while the network trains, timed while their schedule rises."""


def step_of(way: str, config: Config, model: nn.Module, data: tuple[Any, Any]) -> Step:
    """A function that takes one training step.

    Args:
        way: ``'plain'``, a phase of ``PROGRESS``, one of ``PRUNING``, ``'reference'`` or ``'torch-pruning'``.
        config: of the network.
        model: the plain network; a copy of it is trained.
        data: of :func:`speed.networks.batch_of`.
    """
    model = copy_network(model)
    inputs, samples = data
    before_step: Callable[[], Any] = lambda: None  # noqa: E731
    extra: Callable[[], Any] = lambda: 0.0  # noqa: E731
    if way in (*PROGRESS, *PRUNING):
        wrapped = search(config, model, inputs) if way in PROGRESS else mutated(model, inputs, PRUNING[way])
        mutator = wrapped.mutator
        if way in PROGRESS:
            mutator.importance.fill_(1.0)  # a structure can be fixed; elements are all alike, the first ones stay

        def set_progress() -> None:
            mutator.set_progress(PROGRESS.get(way, PROGRESS['shrink']))

        start, model = set_progress, wrapped
    elif way == 'reference':
        reference = Reference(model, tuple(inputs.shape[1:]), TARGET)
        start, extra, before_step = reference.begin, reference.loss, reference.after_backward
    elif way == 'torch-pruning':
        start, before_step = torch_pruning(model, inputs)
    else:
        start = lambda: None  # noqa: E731
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    wrapper = OptimWrapper(optimizer)
    if way in (*PROGRESS, *PRUNING):
        model.mutator.attach(optimizer)

    def step() -> None:
        start()
        losses = model(inputs, copy.copy(samples), mode='loss')
        loss, _ = model.parse_losses(losses)
        loss = loss + extra()
        wrapper.zero_grad()
        loss.backward()
        before_step()
        wrapper.step()

    return step


def search(config: Config, model: nn.Module, inputs: torch.Tensor, divisor: int | str = 'auto') -> DMSAlgorithm:
    """The model in a search, in training mode."""
    return mutated(
        model, inputs, dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=TARGET), divisor=divisor)
    )


def mutated(model: nn.Module, inputs: torch.Tensor, mutator: dict[str, Any]) -> DMSAlgorithm:
    """The model with any mutator, in training mode."""
    return DMSAlgorithm(model, mutator, tuple(inputs.shape[1:])).to(inputs.device).train()


def evaluation_of(way: str, config: Config, model: nn.Module, inputs: torch.Tensor) -> Step:
    """A function that runs a forward pass in evaluation mode: ``'plain'`` or of a search."""
    model = copy_network(model)
    network = model if way == 'plain' else search(config, model, inputs)
    if way in PROGRESS:
        network.mutator.importance.fill_(1.0)
        network.mutator.set_progress(PROGRESS[way])
    network.eval()

    @torch.no_grad()
    def step() -> None:
        network(inputs, mode='tensor')

    return step


def torch_pruning(model: nn.Module, inputs: torch.Tensor) -> tuple[Step, Step]:
    """Torch-Pruning's sparsity learning: its group norm pruner regularises gradients before every step.

    Raises:
        Whatever Torch-Pruning raises for a network that it cannot trace.
    """
    import torch_pruning as tp

    class Forward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> Any:
            return self.model(x, mode='tensor')

    network = Forward()
    importance = tp.importance.GroupMagnitudeImportance()
    pruner = tp.pruner.GroupNormPruner(network, inputs[:1], importance=importance, pruning_ratio=TARGET)
    return pruner.update_regularizer, lambda: pruner.regularize(network)
