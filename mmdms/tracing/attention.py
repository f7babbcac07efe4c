"""Attention that PyTorch fuses, or computes step by step where none of its kernels fits.

It takes the steps where queries and values differ in width, as they do in slices, or where a mask needs a gradient.
The dispatcher then shows two products, which look like products of the network's own. mmengine sees one operation,
which it does not count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .context import RuleContext


class UncountedAttention(TorchFunctionMode):
    """Takes back the costs of ``scaled_dot_product_attention`` while a tracer runs, and reports it as not counted."""

    def __init__(self, tracer: RuleContext) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        trace = self._tracer.trace
        costs, operations = len(trace.costs), len(trace.operations)
        out = func(*args, **kwargs or {})
        if func is F.scaled_dot_product_attention and len(trace.costs) > costs:
            del trace.costs[costs:]
            # They stay, without costs: they run at the size at which FLOPs are counted too.
            trace.operations[operations:] = [replace(run, costs=range(0)) for run in trace.operations[operations:]]
            trace.uncounted.setdefault(self._tracer.module, func.__name__)
        return out
