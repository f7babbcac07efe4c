"""FLOPs as the table of a search space has them, beside those that mmengine counts."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from mmdms.network.copying import copy_network
from mmdms.slicing.slim import slim
from mmdms.space.search_space import SearchSpace
from mmdms.space.structure import Structure
from mmdms.tracing.builder import FUSED

TOLERANCE = 1e-3
"""Largest difference that goes without a reason."""


class _Called(nn.Module):
    """A network as ``forward`` calls it; of its outputs the tensors alone, which is all that torch.jit takes."""

    def __init__(self, model: nn.Module, forward: Callable[[nn.Module], Callable[..., Any]] | None) -> None:
        super().__init__()
        self.model = model
        self.call = forward or (lambda m: m)

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        leaves = tree_flatten(self.call(self.model)(*inputs))[0]
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


def mmengine_flops(
    model: nn.Module, inputs: Sequence[Any], forward: Callable[[nn.Module], Callable[..., Any]] | None = None
) -> int:
    """Multiply-accumulates of a network as ``get_model_complexity_info`` counts them.

    Args:
        model: the network; not changed.
        inputs: positional arguments of the call, batch size 1.
        forward: maps the network to what is called; the network itself if None.
    """
    called = _Called(copy_network(model), forward).eval()
    logger = MMLogger.get_instance('mmengine')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # mmengine traces with torch.jit
            return int(
                get_model_complexity_info(called, None, tuple(inputs), show_table=False, show_arch=False)['flops']
            )
    finally:
        logger.setLevel(level)


def difference(own: float, counted: float) -> float:
    """How much more the table has than mmengine, as a share of what mmengine counts."""
    return own / counted - 1.0 if counted else float('inf') if own else 0.0


def compared(
    model: nn.Module,
    space: SearchSpace,
    structure: Structure | None,
    inputs: Sequence[Any],
    forward: Callable[[nn.Module], Callable[..., Any]] | None = None,
) -> dict[str, int]:
    """FLOPs of a structure by the table (``flops``) and by mmengine's count of the slice (``mmengine_flops``).

    Args:
        model, space: the network and its search space.
        structure: what stays; all if None.
        inputs, forward: as of :func:`mmengine_flops`, at the size at which the space counts.
    """
    mask = torch.ones(space.num_elements) if structure is None else space.mask(structure)
    network = model if structure is None else slim(model, space, structure)
    return dict(flops=int(space.cost('flops', mask)), mmengine_flops=mmengine_flops(network, inputs, forward))


def reasons(model: nn.Module, space: SearchSpace) -> list[str]:
    """Why the table of a network may differ from mmengine's count."""
    found = []
    if any(isinstance(m, nn.modules.conv._ConvNd) and m.padding == 'same' for m in model.modules()):
        found.append("mmengine leaves out convolutions with padding='same'")
    if any(isinstance(m, nn.RNNBase) for m in model.modules()):
        found.append('mmengine leaves out recurrent layers')
    if FUSED in space.uncounted.values():
        found.append('mmengine counts the branches and norms that a deployment fuses')
    return found


def too_far(record: dict[str, Any]) -> bool:
    """Whether the FLOPs of a network or of one of its slices differ by more than ``TOLERANCE``."""
    rows = [record, *record.get('seeds', [])]
    return any(
        abs(difference(row['flops'], row['mmengine_flops'])) > TOLERANCE for row in rows if 'mmengine_flops' in row
    )
