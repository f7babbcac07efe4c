"""Trace a network with all rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..network.example_call import Inputs
from .rules import RULES
from .trace import Trace
from .tracer import Tracer


def trace(model: nn.Module, inputs: Inputs, forward: Callable[..., Any] | None = None) -> Trace:
    """Trace ``model`` on an example input.

    Args:
        model: any module, in the mode (train or eval) that should be traced.
        inputs: of the call, as of :meth:`ExampleCall.of`; batch size 1, any values.
        forward: what to call; the model itself if None.

    Returns:
        Axes of parameters, cost terms, block calls and frozen labels.
    """
    try:
        return Tracer(model, RULES).run(forward or model, inputs)
    except RuntimeError as error:
        if 'saved tensor' not in str(error):
            raise
    return Tracer(model, RULES).run(forward or model, inputs, keep=True)  # a forward that differentiates itself
