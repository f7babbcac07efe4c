"""Use mmdms without a Runner, on any ``nn.Module``."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .adapters.base import adapt, fused, groups, knows_sizes, streams
from .masks.channel_masks import has_masks, without_masks
from .network.copying import copy_network
from .network.example_call import ExampleCall, Inputs, name_of
from .network.trees import check_comparable
from .space.search_space import SearchSpace
from .tracing.builder import SearchSpaceBuilder
from .tracing.flops_rescaling import scale_costs
from .tracing.run import trace
from .verification.verifier import Verifier


def build_search_space(
    model: nn.Module,
    inputs: Inputs,
    *,
    forward: Callable[[nn.Module], Callable[..., Any]] | None = None,
    flops_inputs: Inputs | None = None,
    include: Iterable[str] = ('*',),
    exclude: Iterable[str] = (),
    verify: bool = True,
) -> SearchSpace:
    """Trace a network and find everything in it that can be removed.

    The network runs once on ``inputs`` in evaluation mode, as a copy on the CPU, while every channel
    element is followed; then a random half of the space is cut out for real and
    compared with its mask in float64. What cannot be searched is listed in
    ``frozen`` with its reason.

    Args:
        model: any network; unchanged on return.
        inputs: an example of what the network is called on, batch size 1. A tensor is the only argument; a tuple or
            list holds the positional arguments; a mapping (a dict, the output of a tokenizer) holds the keyword
            arguments; an :class:`mmdms.ExampleCall` holds both. A dict that is itself the only argument is given
            as a tuple of one, ``(batch,)``; so is a list. Tensors of integers stay as they are.
            FLOPs are counted at this input's size, unless ``flops_inputs`` are given.
        forward: maps a model to the function that is called on ``inputs``;
            the model itself if None.
        flops_inputs: as ``inputs``, of the real size, where ``inputs`` are smaller to save time and memory;
            the network runs on them once, and FLOPs are counted at their size.
        include, exclude: shell patterns over module names that select what is searched.
        verify: cut a random structure and compare it; leave this on.

    Raises:
        ConfigError: for a pattern that matches nothing.
        ModelError: if the network cannot be copied, or called on ``inputs``, or if no floating-point tensor is
            among its outputs. Outputs may be packed in lists, tuples, dicts, dataclasses and other objects.
        GeometryError: if the network does other operations on ``flops_inputs`` than on ``inputs``.
    """
    # On a GPU operations have other names (cudnn_batch_norm), and so no rules: all networks are traced on the CPU.
    example = _on_cpu(inputs)
    if has_masks(model):  # of a search that is going on, or over: the space is that of the network without them
        model = without_masks(model, share_tensors=True)
    # A copy runs: some modules keep what they computed, with its graph, and could not be copied afterwards.
    # It shares the values of its parameters. Autograd must see every one of them: it is how operations that the
    # dispatcher misses are noticed.
    shared = {id(p): nn.Parameter(p.detach().cpu(), requires_grad=p.is_floating_point()) for p in model.parameters()}
    probe = copy_network(model, shared, device='cpu')
    probe.eval()  # on its own: some modules forget to return themselves
    function = (forward or (lambda m: m))(probe)
    example.check(function)
    adapt(probe, masked=True)
    call = _checked(function)
    found = trace(probe, example, call, knows_sizes)
    if flops_inputs is not None:
        scale_costs(found, call, _on_cpu(flops_inputs))
    found.together, found.streams, found.fused = groups(probe), streams(probe), fused(probe)
    del probe, function, call
    gc.collect()  # networks whose hooks are methods of their own hold themselves: a large copy would stay
    space = SearchSpaceBuilder(model, found, include, exclude).build()
    del found  # labels of every element
    if verify:
        with torch.random.fork_rng(devices=[]):
            space = Verifier(model, space, example, forward).run()
    return space


def _on_cpu(inputs: Inputs) -> ExampleCall:
    return ExampleCall.of(inputs).map_tensors(lambda tensor: tensor.cpu())


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises ``ModelError`` where its outputs could not be compared."""

    def run(*args: Any, **kwargs: Any) -> Any:
        outputs = function(*args, **kwargs)
        check_comparable(outputs, name_of(function))
        return outputs

    return run
