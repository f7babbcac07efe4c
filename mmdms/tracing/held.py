"""Why each position of each dimension of each parameter stays, if it does."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..space.frozen import FreezeReason
from ..space.search_space import FIXED
from .elements import Elements
from .frozen import NOWHERE, FrozenElements
from .trace import Axis, Trace

INPUT = 'reads an input of the network or a constant'
UNUSED = 'is not used by the traced call'
UNSEEN = 'is used by no operation that the trace sees'

Dim = tuple[str, int]
"""Name of a parameter and one of its dimensions."""


class Dimensions:
    """Dimensions above 1 of the parameters of a network, and which of them are spatial extents of convolutions.

    Attributes:
        sizes: size of each that is none.
        kernels: those that are.
    """

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        unused = {
            f'{name}.weight'.lstrip('.')
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.conv._ConvNd)
        } - trace.used.keys()
        self.sizes: dict[Dim, int] = {}
        self.kernels: set[Dim] = set()
        for name, parameter in model.named_parameters():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                continue
            for dim, size in enumerate(parameter.shape):
                if size > 1 and ((name, dim) in trace.kernels or (dim >= 2 and name in unused)):
                    self.kernels.add((name, dim))
                elif size > 1:
                    self.sizes[name, dim] = size


def find_held(
    dimensions: Dimensions, elements: Elements, frozen: FrozenElements, element: np.ndarray
) -> dict[Dim, Tensor]:
    """Why the positions stay along every dimension that is no extent of a kernel.

    Args:
        dimensions, elements, frozen: of the network, of its trace, and what stays. Reasons that concern no
            channel element are added to the report of ``frozen``.
        element: index of the searched element of every class, ``FIXED`` for those that stay.

    Returns:
        Rows of the report, shape (positions,); ``NOWHERE`` for positions that follow a searched element.
    """
    trace = elements.trace
    idle = _Idle(trace)
    held: dict[Dim, Tensor] = {}
    for (name, dim), size in dimensions.sizes.items():
        axis = trace.axes.get((name, dim))
        if axis is not None:
            held[name, dim] = _along(axis, elements, frozen, element)
            continue
        row = _row_of_entries(name, elements, frozen)
        if row == NOWHERE and name in trace.opaque:
            row = frozen.report.add_parameter(name, trace.opaque[name], size)
        elif row == NOWHERE:
            row = frozen.report.add_positions(idle.reason(name) or _no_channels(name, dim, trace), size)
        held[name, dim] = torch.full((size,), row)
    return held


def _along(axis: Axis, elements: Elements, frozen: FrozenElements, element: np.ndarray) -> Tensor:
    """Rows of the positions along an axis."""
    factors = elements.classes.elements(axis.labels)
    rows = frozen.row[factors].max(1)  # of heads times width, both of which stay, either says why
    searched = (element[factors] != FIXED).any(1)
    bare = axis.labels.numpy() == 0
    if bare.any():
        trace, count = elements.trace, int(bare.sum())
        if axis.parameter in trace.opaque:
            rows[bare] = frozen.report.add_parameter(axis.parameter, trace.opaque[axis.parameter], count)
        elif axis.parameter in trace.lost:
            rows[bare] = frozen.report.add_followers(trace.lost[axis.parameter], count)
        else:
            rows[bare] = frozen.report.add_positions(FreezeReason(axis.module, INPUT), count)
    return torch.from_numpy(np.where(searched, NOWHERE, rows))


def _row_of_entries(name: str, elements: Elements, frozen: FrozenElements) -> int:
    """Row of a parameter used elementwise whose entries are all one element that stays; else ``NOWHERE``."""
    if name not in elements.trace.elementwise or name in elements.trace.opaque:
        return NOWHERE
    found = np.unique(elements.classes.of(elements.trace.elementwise[name][0]))
    return int(frozen.row[found[0]]) if len(found) == 1 else NOWHERE


def _no_channels(name: str, dim: int, trace: Trace) -> FreezeReason:
    module, _, leaf = name.rpartition('.')
    if any(parameter == name for parameter, _ in trace.axes):
        return FreezeReason(module, f'no channel lies along dimension {dim} of {leaf}')
    return FreezeReason(module, f'{leaf} meets no channel: it is used by {trace.used[name]}')


class _Idle:
    """Parameters that no traced operation met."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._alive = trace.ran | {ancestor for name in trace.used for ancestor in _ancestors(name)}

    def reason(self, name: str) -> FreezeReason | None:
        """Why a parameter that was not met stays, by the largest module of which nothing was met; None if it was."""
        if name in self._trace.used:
            return None
        module = name.rpartition('.')[0]
        if module in self._trace.ran:
            return FreezeReason(module, f'{name.rpartition(".")[2]} {UNSEEN}')
        idle = [ancestor for ancestor in _ancestors(name) if ancestor not in self._alive]
        return FreezeReason(idle[-1] if idle else module, UNUSED)


def _ancestors(name: str) -> list[str]:
    """Modules that hold a parameter, from the inside out; the network itself left out."""
    parts = name.split('.')[:-1]
    return ['.'.join(parts[:end]) for end in range(len(parts), 0, -1)]
