"""The search space of an OpenMMLab model, from the shape of its images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..api import build_search_space
from ..errors import GeometryError
from ..space.search_space import SearchSpace
from .architecture import tensor_forward
from .example import check_runs, example_of


def build_model_space(
    model: nn.Module, input_shape: tuple[int, int, int], include: Iterable[str] = ('*',), exclude: Iterable[str] = ()
) -> SearchSpace:
    """Search space of an OpenMMLab model, whose FLOPs are counted at ``input_shape`` (channels, height, width).

    Detectors are traced on smaller images; see :mod:`mmdms.openmmlab.example`.

    Raises:
        ConfigError: for a pattern that matches nothing.
        ModelError: if the network does not run, with the reason.
    """
    example = example_of(model, input_shape)
    patterns: dict[str, Any] = dict(include=include, exclude=exclude)
    try:
        return build_search_space(
            model, example.inputs, forward=tensor_forward, flops_inputs=example.flops_inputs, **patterns
        )
    except GeometryError as error:
        print(f'traced at its real size {tuple(input_shape[1:])}, which takes longer: {error}')
        return build_search_space(model, example.flops_inputs or example.inputs, forward=tensor_forward, **patterns)
    except Exception:  # a network that does not run may raise anything
        check_runs(model, example.inputs)
        raise
