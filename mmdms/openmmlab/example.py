"""Example inputs of OpenMMLab models."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..adapters.base import adapt
from ..errors import ModelError
from ..network.copying import copy_network
from .architecture import tensor_forward
from .detection import detector_inputs, is_detector

NO_KERNEL = re.compile(r'(\w+?)(?:_impl)?: implementation for device cpu')
"""In the error of an operation of mmcv that was written for GPUs alone: its name."""

TRACE_SIDES = (128, 256)
"""Heights and widths of images that detectors are traced on, the first on which one runs.

At 128 the coarsest level of a pyramid has one position; some need more positions than 128 give, for their queries.
"""


@dataclass(frozen=True)
class Example:
    """Arguments for what ``tensor_forward`` returns.

    ``inputs`` are to trace and to compare; ``flops_inputs`` to count FLOPs, where those are larger.
    """

    inputs: tuple[Any, ...]
    flops_inputs: tuple[Any, ...] | None = None


def example_of(model: nn.Module, input_shape: tuple[int, int, int]) -> Example:
    """Example inputs of a model, batch size 1.

    A detector is traced on small images: what its layers do to channels does not depend on their size, while time
    and memory do. Classifiers may not run at other sizes (position embeddings).

    Args:
        input_shape: ``(channels, height, width)`` at which FLOPs are counted.

    Raises:
        ModelError: if a detector runs at no size, with the reason.
    """
    images = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0))
    if not is_detector(model):
        return Example((images,))
    problem = None
    for side in TRACE_SIDES:
        if max(input_shape[1:]) > side:
            inputs = detector_inputs(model, images[..., :side, :side].contiguous(), few=True)
            problem = _problem(model, inputs)
            if problem is None:
                return Example(inputs, detector_inputs(model, images, few=False))
    if problem is not None:
        print(f'traced at its real size {input_shape[1:]}, which takes longer: on small images {problem}')
    few, all_ = (detector_inputs(model, images, few) for few in (True, False))
    check_runs(model, few)
    return Example(few, all_ if len(all_) > 1 else None)


def check_runs(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raise ModelError, with the reason and the remedy, unless a model runs on some inputs."""
    problem = _problem(model, inputs)
    if problem is not None:
        shape = 'x'.join(map(str, inputs[0].shape[1:]))
        raise ModelError(f'the network does not run on an image of {shape}, in evaluation mode, on the CPU: {problem}')


def _problem(model: nn.Module, inputs: tuple[Any, ...]) -> str | None:
    """Why a model does not run on some inputs; None if it does."""
    probe = copy_network(model)
    probe.eval()
    adapt(probe)
    try:
        with torch.no_grad():
            tensor_forward(probe)(*inputs)
    except Exception as error:  # a forward may raise anything
        kernel = NO_KERNEL.search(str(error))
        if kernel is not None:
            return (
                f'operation {kernel[1]!r} has no kernel for the CPU, where networks are traced and verified: set '
                'another type of layer with --cfg-options, or write an adapter that computes the same with operations '
                'of PyTorch (docs/adapters.md)'
            )
        place = traceback.extract_tb(error.__traceback__)[-1]
        first = next(iter(str(error).splitlines()), '')
        return f'it raises {type(error).__name__}: {first} ({place.filename}:{place.lineno})'
    return None
