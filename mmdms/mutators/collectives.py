"""The collectives that a distributed search needs, on whatever device its process group works."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

OPERATIONS = {'sum': distributed.ReduceOp.SUM, 'max': distributed.ReduceOp.MAX} if distributed.is_available() else {}


def world_size() -> int:
    """Number of processes of the run; 1 where none is distributed."""
    return distributed.get_world_size() if _distributed() else 1


def rank() -> int:
    """Number of this process in the run, from 0."""
    return distributed.get_rank() if _distributed() else 0


def all_reduce(value: Tensor, operation: str) -> None:
    """Replace ``value``, in place, by its sum or maximum over all processes.

    Args:
        value: of the same shape and type in all processes.
        operation: ``'sum'`` or ``'max'``.
    """
    if world_size() == 1:
        return
    # NCCL reduces tensors of the GPU alone, gloo (as mmengine uses it too) those of the CPU.
    device = torch.device('cuda' if distributed.get_backend() == 'nccl' else 'cpu')
    shared = value.to(device)
    distributed.all_reduce(shared, op=OPERATIONS[operation])
    value.copy_(shared)


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
