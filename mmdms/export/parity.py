"""Is the sliced network the masked network? Compare them in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
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
    """A float64 copy in evaluation mode whose norms and constant parameters are randomised.

    A trained or freshly built norm can hide an error: with a zero scale, or a
    zero shift, a channel that was dropped by mistake would pass unnoticed. So
    would all channels behind a layer whose weight starts at zero.
    """
    # Copied and cast at once: a copy in the old type as well would raise the peak of memory by half.
    tensors: dict[int, Any] = {}
    for parameter in model.parameters():
        value = _prepare_input(parameter.detach())
        value = value.clone() if value.data_ptr() == parameter.data_ptr() else value
        tensors[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    model = copy.deepcopy(model, tensors).cpu().double()
    model.eval()  # on its own: some modules forget to return themselves
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS):
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None and tensor.is_floating_point():
                    low, high = (0.5, 1.5) if name in ('weight', 'running_var') else (-0.5, 0.5)
                    with torch.no_grad():
                        tensor.uniform_(low, high, generator=generator)
    for parameter in model.parameters():
        if (
            parameter.numel() > 1
            and parameter.is_floating_point()
            and bool((parameter == parameter.flatten()[0]).all())
        ):
            bound = max(parameter[0].numel(), 1) ** -0.5
            with torch.no_grad():
                parameter.uniform_(-bound, bound, generator=generator)
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
    # The sliced network first: it is cheaper, and where it cannot run no mask is needed.
    found = _outputs(slim(model, space, structure, share_tensors=True), inputs, forward)
    masks = Masks(model, space)
    try:
        masks.set(space.mask(structure).double())
        expected = _outputs(model, inputs, forward)
    finally:
        masks.remove()
    return _difference(expected, found)


def compare(
    model: nn.Module, other: nn.Module, inputs: Sequence[Any], forward: Callable[..., Any] | None = None
) -> Parity:
    """Compare two networks, both prepared by :func:`prepare_for_parity`, on one input."""
    return _difference(_outputs(model, inputs, forward), _outputs(other, inputs, forward))


def _outputs(model: nn.Module, inputs: Sequence[Any], forward: Callable[..., Any] | None) -> list[Any]:
    call = forward or (lambda m: m)
    with torch.no_grad(), _float64():
        return tree_flatten(call(model)(*tree_map(_prepare_input, tuple(inputs))))[0]


def _difference(expected: list[Any], found: list[Any]) -> Parity:
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if isinstance(a, Tensor)]
    shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in pairs if a.shape != b.shape]
    if shapes:
        raise ValueError(f'the sliced network gives other shapes: {shapes[0][1]} instead of {shapes[0][0]}')
    pairs = [(a, b) for a, b in pairs if a.numel()]
    return Parity(_largest([a - b for a, b in pairs]), _largest([a for a, _ in pairs]))


@contextmanager
def _float64() -> Iterator[None]:
    """What a forward creates (a position encoding, say) is of the type of the prepared weights too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Promote():
            yield
    finally:
        torch.set_default_dtype(before)


class _Promote(TorchFunctionMode):
    """Operands of mixed precision meet in float64: some networks compute encodings in float32 on purpose."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func.__name__.endswith('_'):  # written in place, an operand must stay itself
            leaves = tree_flatten((args, kwargs))[0]
            kinds = {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()}
            if len(kinds) > 1:
                args, kwargs = tree_map(_promote, (args, kwargs))
        return func(*args, **kwargs)


def _promote(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _prepare_input(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.cpu().double() if leaf.is_floating_point() else leaf.cpu()


def _largest(tensors: Sequence[Tensor]) -> float:
    """Largest absolute value; nan if there is one (the built-in max would overlook it)."""
    return float(torch.stack([t.double().abs().max() for t in tensors]).max()) if tensors else 0.0
