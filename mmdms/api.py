"""Use mmdms without a Runner, on any ``nn.Module``."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.base import adapt, groups, streams
from .export.verify import Verifier
from .tracing.builder import SearchSpaceBuilder
from .tracing.search_space import SearchSpace
from .tracing.tracer import trace


def build_search_space(
    model: nn.Module,
    inputs: Tensor | Sequence[Any],
    *,
    forward: Callable[[nn.Module], Callable[..., Any]] | None = None,
    include: Iterable[str] = ('*',),
    exclude: Iterable[str] = (),
    verify: bool = True,
) -> SearchSpace:
    """Trace a network and find everything in it that can be removed.

    The network runs once on ``inputs`` in evaluation mode while every channel
    element is followed; then a random half of the space is cut out for real and
    compared with its mask in float64. What cannot be searched is listed in
    ``frozen`` with its reason.

    Args:
        model: any network; unchanged on return.
        inputs: an example input, or the positional arguments, batch size 1.
            FLOPs are counted at this input's size.
        forward: maps a model to the function that is called on ``inputs``;
            the model itself if None.
        include, exclude: shell patterns over module names that select what is searched.
        verify: cut a random structure and compare it; leave this on.

    Raises:
        ConfigError: for a pattern that matches nothing.
    """
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    # A copy runs: some modules keep what they computed, with its graph, and could not be copied afterwards.
    # It shares the values of its parameters. Autograd must see every one of them: it is how operations that the
    # dispatcher misses are noticed.
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=p.is_floating_point()) for p in model.parameters()}
    probe = copy.deepcopy(model, dict[int, Any](shared))
    probe.eval()  # on its own: some modules forget to return themselves
    adapt(probe, masked=True)
    call = (forward or (lambda m: m))(probe)
    found = trace(probe, arguments, call)
    found.together, found.streams = groups(probe), streams(probe)
    del probe, call
    gc.collect()  # networks whose hooks are methods of their own hold themselves: a large copy would stay
    space = SearchSpaceBuilder(model, found, include, exclude).build()
    if verify:
        with torch.random.fork_rng(devices=[]):
            space = Verifier(model, space, arguments, forward).run()
    return space
