"""Is the sliced network the masked network? Compare them in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ..masking import Masks
from ..structure import Structure
from ..tracing.search_space import SearchSpace
from .slim import slim

TOLERANCE = 1e-8
"""Largest difference, as a share of the largest output, that still counts as equal."""


@dataclass
class Parity:
    """Largest difference between both networks, and the largest output of the masked one."""

    max_abs_diff: float
    max_abs_output: float

    @property
    def holds(self) -> bool:
        """Whether both networks are equal up to rounding."""
        return self.max_abs_diff <= TOLERANCE * self.max_abs_output

    def to_dict(self) -> dict[str, float]:
        """As ``report.json`` shows it."""
        return dict(max_abs_diff=self.max_abs_diff, max_abs_output=self.max_abs_output)


def prepare_for_parity(model: nn.Module, seed: int = 0) -> nn.Module:
    """A float64 copy in evaluation mode whose norms are randomised.

    A trained or freshly built norm can hide an error: with a zero scale, or a
    zero shift, a channel that was dropped by mistake would pass unnoticed.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS):
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None and tensor.is_floating_point():
                    low, high = (0.5, 1.5) if name in ('weight', 'running_var') else (-0.5, 0.5)
                    with torch.no_grad():
                        tensor.uniform_(low, high, generator=generator)
    return model


NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)


def check_parity(
    model: nn.Module,
    space: SearchSpace,
    structure: Structure,
    inputs: Sequence[Any],
    forward: Callable[..., Any] | None = None,
    prepared: bool = False,
) -> Parity:
    """Compare the hard-masked supernet with the sliced network on one input.

    Args:
        model: the supernet; not changed.
        space, structure: what to keep.
        inputs: positional arguments of the call; floating tensors are cast to float64.
        forward: maps a model to what is called on ``inputs``; the model itself if None.
        prepared: whether ``model`` went through :func:`prepare_for_parity` already.

    Raises:
        Whatever the sliced network raises when it cannot run.
    """
    model = model if prepared else prepare_for_parity(model)
    call = forward or (lambda m: m)
    inputs = tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, tuple(inputs))
    with torch.no_grad():
        masks = Masks(model, space)
        try:
            masks.set(space.mask(structure).double())
            expected = tree_flatten(call(model)(*inputs))[0]
        finally:
            masks.remove()
        found = tree_flatten(call(slim(model, space, structure))(*inputs))[0]
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if isinstance(a, Tensor)]
    shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in pairs if a.shape != b.shape]
    if shapes:
        raise ValueError(f'the sliced network gives other shapes: {shapes[0][1]} instead of {shapes[0][0]}')
    diff = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    return Parity(diff, max((float(a.abs().max()) for a, _ in pairs if a.numel()), default=0.0))
