"""Count what a step asks of a device: kernels launched, and times that the program waited for a number."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from .timing import Step

LAUNCHES = {'cudaLaunchKernel', 'cudaLaunchKernelExC', 'cuLaunchKernel', 'cuLaunchKernelEx'}
WAITS = {'cudaStreamSynchronize'}
"""What PyTorch calls to copy numbers from the device, or to it: the program stands still until all before is done."""


class OperationCount(TorchDispatchMode):
    """Counts operations by name, views left out: a view launches no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.calls[func.overloadpacket._qualified_op_name] += 1
        return func(*args, **(kwargs or {}))


def operations(step: Step) -> Counter[str]:
    """Operations of one call that are no views, by name."""
    with OperationCount() as count:
        step()
    return count.calls


def kernels(step: Step) -> dict[str, int] | None:
    """Kernels that one call launches and its waits for the device.

    Returns:
        ``kernels`` and ``waits``; None without a GPU.
    """
    if not torch.cuda.is_available():
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    counts: Counter[str] = Counter()
    for event in found.events():
        counts['kernels'] += event.name in LAUNCHES
        counts['waits'] += event.name in WAITS
    return dict(kernels=counts['kernels'], waits=counts['waits'])
