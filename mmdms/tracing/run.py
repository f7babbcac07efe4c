"""Trace a network with all rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..network.example_call import Inputs
from .attributes import attributes_known
from .rules import RULES
from .trace import Trace
from .tracer import Tracer


def trace(
    model: nn.Module,
    inputs: Inputs,
    forward: Callable[..., Any] | None = None,
    knows_sizes: Callable[[nn.Module], bool] = lambda module: False,
) -> Trace:
    """Trace ``model`` on an example input.

    Modules that view channels as several parts, and sum a product of two activations over the channels of a part,
    divide them into attention heads: the network is traced again with this known.

    Args:
        model: any module, in the mode (train or eval) that should be traced.
        inputs: of the call, as of :meth:`ExampleCall.of`; batch size 1, any values.
        forward: what to call; the model itself if None.
        knows_sizes: whether the attributes of a module are updated by an adapter when it shrinks.

    Returns:
        Axes of parameters, cost terms, block calls and frozen labels.
    """

    def run(heads_in: frozenset[str]) -> Trace:
        return _trace(model, inputs, forward, knows_sizes, heads_in)

    found = run(frozenset())
    heads_in = frozenset(found.divided & found.contracted)
    return run(heads_in) if heads_in else found


def _trace(
    model: nn.Module,
    inputs: Inputs,
    forward: Callable[..., Any] | None,
    knows_sizes: Callable[[nn.Module], bool],
    heads_in: frozenset[str],
) -> Trace:
    try:
        with attributes_known(model, knows_sizes):
            return Tracer(model, RULES, heads_in).run(forward or model, inputs)
    except RuntimeError as error:
        if 'saved tensor' not in str(error):
            raise
    with attributes_known(model, knows_sizes):  # a forward that differentiates itself
        return Tracer(model, RULES, heads_in).run(forward or model, inputs, keep=True)
