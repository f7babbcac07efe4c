"""Norm statistics of the network that is validated while its masks still move."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .resume import random_states, set_random_states


class NormStatistics:
    """Estimates the statistics of batch norms on the last training batches, and puts the former ones back.

    A batch norm averages its statistics over some ten steps. While a budget falls, every layer changes in each of
    them, so the averages lag behind, and in a deep network the error of one layer is the input of the next.

    Batches are kept as they pass: nothing more is read from the data. Training draws the same random numbers, and
    goes on with its own statistics.

    Args:
        batches: how many are kept, at least 1; a validation costs so many forward passes more.
    """

    def __init__(self, batches: int) -> None:
        self._batches: deque[Any] = deque(maxlen=batches)
        self._former: list[tuple[Tensor, Tensor]] = []

    def keep(self, data_batch: Any) -> None:
        """Keep a batch, as the data loader made it."""
        self._batches.append(data_batch)

    def forget(self) -> None:
        """Let go of all batches."""
        self._batches.clear()

    @torch.no_grad()
    def estimate(self, runner: Any) -> None:
        """Give the norms of the network means over the batches that are kept, and have it in evaluation mode."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        norms = _norms(model)
        if not norms or not self._batches:
            return
        self._former = [(value, value.clone()) for norm in norms for value in norm.buffers()]
        momenta, states = [norm.momentum for norm in norms], random_states()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.training = True
        # Batch augmentations may write to the batch, and keep what they drew.
        prepare = copy.deepcopy(model.data_preprocessor)
        for batch in self._batches:
            model._run_forward(prepare(copy.deepcopy(batch), True), mode='tensor')
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum, norm.training = momentum, False
        set_random_states(states)
        unused = {id(value) for norm in norms if not int(norm.num_batches_tracked) for value in norm.buffers()}
        for value, former in self._former:
            if id(value) in unused:
                value.copy_(former)
            elif get_world_size() > 1 and value.is_floating_point():
                all_reduce(value, op='mean')

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the norms the statistics of training back."""
        for value, former in self._former:
            value.copy_(former)
        self._former = []


def _norms(model: nn.Module) -> list[Any]:
    """Norms that gather statistics in training, of frozen layers none; the model is left in evaluation mode."""
    model.train()
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
    ]
    model.eval()
    return norms
