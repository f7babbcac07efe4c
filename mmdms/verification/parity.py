"""Is the sliced network the masked network? Compare them in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..masks.channel_masks import Masks
from ..network.copying import copy_network
from ..network.example_call import ExampleCall, Inputs
from ..network.trees import comparable, tensors_of
from ..slicing.slim import slim
from ..space.search_space import SearchSpace
from ..space.structure import Structure
from .float64 import float64
from .graphs import with_gradients

TOLERANCE = 1e-8
"""Largest difference, as a share of the largest output, that still counts as equal."""


BLUR = 1e-4
"""Rounding that moves an output by more than this share of its largest value hides what a wrong slice would."""

NOISE = 1e-5
"""Outputs below this share of the largest are compared as if they had it."""


@dataclass
class Parity:
    """Largest difference between both networks, and the largest output of the masked one."""

    max_abs_diff: float
    max_abs_output: float
    share: float
    """The largest difference of one output as a share of the largest value of that output.

    Of outputs whose difference exceeds what rounding does to the masked network.
    """

    @property
    def holds(self) -> bool:
        """Whether both networks are equal up to rounding."""
        return self.share <= TOLERANCE

    def to_dict(self) -> dict[str, float]:
        """As ``report.json`` shows it."""
        return dict(max_abs_diff=self.max_abs_diff, max_abs_output=self.max_abs_output)


def prepare_for_parity(model: nn.Module, seed: int = 0, cast: bool = True) -> nn.Module:
    """A float64 copy in evaluation mode whose norms and constant parameters are randomised, and small weights scaled.

    Parameters that are not finite are randomised too.

    A trained or freshly built norm can hide an error: with a zero scale, or a
    zero shift, a channel that was dropped by mistake would pass unnoticed. So
    would all channels behind a layer whose weight starts at zero.

    Args:
        model: any network; not changed.
        seed: of the random values.
        cast: make all weights float64. Without, those that are not randomised are shared with ``model`` as they
            are, which spares the memory of two copies; run it where operands are promoted (:func:`check_parity`).
    """
    random = _random_values(model, seed)
    tensors: dict[int, Any] = {}
    for parameter in model.parameters():
        value = random.get(id(parameter), parameter.detach()).cpu()
        value = value.double() if cast and value.is_floating_point() else value
        value = value.clone() if cast and value.data_ptr() == parameter.data_ptr() else value
        tensors[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        if id(buffer) in random:
            tensors[id(buffer)] = random[id(buffer)]
    model = copy_network(model, tensors, device='cpu')
    model = model.double() if cast else model
    model.eval()  # on its own: some modules forget to return themselves
    return model


def _random_values(model: nn.Module, seed: int) -> dict[int, Tensor]:
    """New values, by id: of norms' parameters and buffers, of constant parameters, of weights too small to be seen."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, Tensor] = {}

    def draw(tensor: Tensor, low: float, high: float) -> None:
        found[id(tensor)] = torch.empty(tensor.shape, dtype=torch.float64).uniform_(low, high, generator=generator)

    for module in model.modules():
        if isinstance(module, NORMS):
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None and tensor.is_floating_point():
                    draw(tensor, *((0.5, 1.5) if name in ('weight', 'running_var') else (-0.5, 0.5)))
    for parameter in model.parameters():
        if parameter.numel() > 1 and parameter.is_floating_point() and id(parameter) not in found:
            # Modules that are built but not yet initialised hold what the memory held, nan at times.
            if _is_constant(parameter) or not bool(parameter.isfinite().all()):
                bound = max(parameter[0].numel(), 1) ** -0.5
                draw(parameter, -bound, bound)
            elif parameter.dim() > 1:
                gain = (2 / parameter[0].numel()) ** 0.5  # He et al., "Delving Deep into Rectifiers", 2015
                spread = float(parameter.detach().std())
                if 0 < spread < gain * (FAINT if parameter.dim() == 2 else NEARLY):
                    scaled = parameter.detach() * (gain / spread)
                    # Fewer bits will do for weights that only have to differ, and a quarter of the memory.
                    found[id(parameter)] = scaled.half() if scaled.numel() >= MANY else scaled.double()
    return found


def _is_constant(parameter: Tensor) -> bool:
    values = parameter.detach().flatten()
    return all(bool((part == values[0]).all()) for part in (values[:1024], values))


FAINT, NEARLY = 0.25, 0.9
"""Weights with less than this share of He's spread are scaled up to it: of linear layers, and of convolutions.

Without, what a first layer does could fade to nothing on its way through a deep network of small weights, and so would
a mistake there. Transformers, whose norms keep what passes at one scale, share their large matrices.
"""


MANY = 1 << 16
"""Scaled copies of weights with at least so many values are kept in half precision; what is computed is not."""

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)


def check_parity(
    model: nn.Module,
    space: SearchSpace,
    structure: Structure,
    inputs: Inputs,
    forward: Callable[..., Any] | None = None,
    prepared: bool = False,
    gradients: bool = False,
) -> Parity:
    """Compare the hard-masked supernet with the sliced network on one input.

    Args:
        model: the supernet; not changed.
        space, structure: what to keep.
        inputs: of the call, as of :func:`mmdms.build_search_space`; floating tensors are cast to float64.
        forward: maps a model to what is called on ``inputs``; the model itself if None.
        prepared: whether ``model`` went through :func:`prepare_for_parity` already.
        gradients: run both with gradients on, as in training; masks then multiply other operands.

    Raises:
        Whatever the sliced network raises when it cannot run.
    """
    model = model if prepared else prepare_for_parity(model, cast=False)
    # The sliced network first: it is cheaper, and where it cannot run no mask is needed.
    subnet = slim(model, space, structure, share_tensors=True)
    try:
        found = outputs(subnet, inputs, forward, gradients)
    finally:
        _let_go(subnet)
    masks = Masks(model, space)
    try:
        masks.set(space.mask(structure).double())
        expected = outputs(model, inputs, forward, gradients)
        parity = difference(expected, found)
        if not parity.holds and parity.share <= BLUR:
            parity = difference(expected, found, outputs(model, inputs, forward, gradients, coarse=True))
    finally:
        masks.remove()
    return parity


def _let_go(model: nn.Module) -> None:
    """Empty a network of its tensors: one that holds itself, by hooks or methods, would keep them for long."""
    for module in model.modules():
        module._parameters.clear()
        module._buffers.clear()


def compare(model: nn.Module, other: nn.Module, inputs: Inputs, forward: Callable[..., Any] | None = None) -> Parity:
    """Compare two networks, both prepared by :func:`prepare_for_parity`, on one input."""
    return difference(outputs(model, inputs, forward), outputs(other, inputs, forward))


def outputs(
    model: nn.Module,
    inputs: Inputs,
    forward: Callable[..., Any] | None,
    gradients: bool = False,
    coarse: bool = False,
) -> list[Tensor]:
    """All tensors that a prepared model returns in float64; random numbers are the same in every call.

    Args:
        gradients: run with gradients on; none is computed.
        coarse: keep fewer bits of what layers return; see :func:`mmdms.verification.float64.float64`.
    """
    call = (forward or (lambda m: m))(model)
    example = ExampleCall.of(inputs).map_tensors(lambda t: t.cpu().double() if t.is_floating_point() else t.cpu())

    def run(differentiable: bool = False) -> Any:
        torch.default_generator.manual_seed(0)
        with float64(coarse, differentiable):
            return example.run(call)

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = with_gradients(run, lambda: run(differentiable=True)) if gradients else run()
        return [tensor.detach() for tensor in tensors_of(found)]


def difference(expected: list[Tensor], found: list[Tensor], coarse: list[Tensor] | None = None) -> Parity:
    """How far ``found`` is from ``expected``; what is no farther than ``coarse``, the same again, is rounding.

    Raises:
        ModelError: if there is no tensor of floating-point numbers.
        ValueError: if their numbers or shapes differ.
    """
    if not comparable(expected):
        raise ModelError(
            'the network returned no tensor of floating-point numbers, so nothing was compared: have it return the '
            'outputs of its layers, or pass forward=lambda model: function'
        )
    if len(expected) != len(found):
        raise ValueError(f'the sliced network returns {len(found)} tensors instead of {len(expected)}')
    shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(expected, found, strict=True) if a.shape != b.shape]
    if shapes:
        raise ValueError(f'the sliced network gives other shapes: {shapes[0][1]} instead of {shapes[0][0]}')
    pairs = [(_numbers(a), _numbers(b)) for a, b in zip(expected, found, strict=True) if a.numel()]
    differences = _distances(pairs)
    sizes = [float(a.abs().masked_fill(a.isinf(), 0.0).max()) for a, _ in pairs]
    highest = _worst(sizes)
    # Among outputs of a thousand, a box that is wrong by a hundredth would hide. What is nearly 0 is rounding itself.
    bounds = [max(size, NOISE * highest) for size in sizes]
    rounding = [0.0] * len(pairs)
    if coarse is not None:
        again = [_numbers(c) for a, c in zip(expected, coarse, strict=True) if a.numel()]
        rounding = _distances([(a, c) for (a, _), c in zip(pairs, again, strict=True)])
    compared = zip(differences, bounds, rounding, strict=True)
    shares = [d / b if b else inf * d for d, b, r in compared if d and not d <= r <= BLUR * b]
    return Parity(_worst(differences), highest, _worst(shares))


def _distances(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """The largest difference of every pair; an infinity that both hold is none."""
    return [float(torch.where(a == b, 0.0, a - b).abs().max()) for a, b in pairs]


def _numbers(tensor: Tensor) -> Tensor:
    """The values of a tensor of any type, dense, in float64."""
    tensor = tensor.detach()
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return torch.view_as_real(tensor.resolve_conj()).double() if tensor.is_complex() else tensor.double()


def _worst(values: Sequence[float]) -> float:
    """The largest value; nan if there is one (the built-in max would overlook it)."""
    return float(torch.tensor(values, dtype=torch.float64).max()) if values else 0.0
