"""Every dimension of every parameter: is it searched, does it follow, or does it stay, and why?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..space.frozen import Frozen
from ..space.search_space import FIXED, SearchSpace
from .frozen import NOWHERE

State = Literal['searched', 'follows', 'frozen', 'kernel', 'unlisted']


@dataclass(frozen=True)
class Dimension:
    """One dimension above 1 of one parameter.

    Attributes:
        parameter, dim, size: which one, and its number of positions.
        state: ``'searched'`` if positions are channels that the parameter outputs and that a unit holds;
            ``'follows'`` if positions go with channels of other layers; ``'frozen'`` if all positions stay;
            ``'kernel'`` if it is a spatial extent of a convolution, which is no dimension of channels;
            ``'unlisted'`` if nobody knows, which is a fault of mmdms.
        kept: positions that cannot go, though others of this dimension may; all of them if it is frozen.
        reasons: why they stay: rows of ``SearchSpace.frozen``.
    """

    parameter: str
    dim: int
    size: int
    state: State
    kept: int = 0
    reasons: tuple[Frozen, ...] = ()


def partition(model: nn.Module, space: SearchSpace) -> list[Dimension]:
    """State of every dimension above 1 of every parameter of a network, in its order.

    Args:
        model: the supernet.
        space: its search space.
    """
    axes = {(axis.parameter, axis.dim): axis for axis in space.axes}
    found = []
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            continue
        for dim, size in enumerate(parameter.shape):
            if size < 2:
                continue
            rows, axis = space.held.get((name, dim)), axes.get((name, dim))
            if rows is None:
                found.append(Dimension(name, dim, size, 'kernel' if (name, dim) in space.kernels else 'unlisted'))
                continue
            goes = axis is not None and bool((axis.elements != FIXED).any())
            state: State = 'frozen' if axis is None or not goes else 'searched' if axis.role == 'out' else 'follows'
            said = [int(row) for row in rows.unique() if row != NOWHERE]
            kept = int((rows != NOWHERE).sum())
            moving = 0 if axis is None else int((axis.elements != FIXED).any(1).sum())
            if kept + moving != size:
                state = 'unlisted'
            found.append(Dimension(name, dim, size, state, kept, tuple(space.frozen[row] for row in said)))
    return found


def counts(dimensions: list[Dimension]) -> dict[str, int]:
    """Number of dimensions of every state but ``'unlisted'``, which is there only where there is one."""
    found = Counter(dimension.state for dimension in dimensions)
    states: tuple[State, ...] = ('searched', 'follows', 'frozen', 'kernel')
    listed = {str(state): found[state] for state in states}
    return {**listed, 'unlisted': found['unlisted']} if found['unlisted'] else listed


def held_after(space: SearchSpace, units: Sequence[int]) -> dict[tuple[str, int], Tensor]:
    """``SearchSpace.held`` once units are taken out of a space.

    Args:
        space: with these units.
        units: their indices; their reasons follow those of ``space.frozen``, in this order.
    """
    row_of = torch.full((space.num_elements + 1,), NOWHERE)  # the last is FIXED
    for place, unit in enumerate(units):
        begin = space.offsets[unit]
        row_of[begin : begin + space.units[unit].total] = len(space.frozen) + place
    held = dict(space.held)
    for axis in space.axes:
        key = axis.parameter, axis.dim
        if key in held:
            gone = ((axis.elements == FIXED) | (row_of[axis.elements] != NOWHERE)).all(1)
            held[key] = torch.where(gone & (held[key] == NOWHERE), row_of[axis.elements].amax(1), held[key])
    return held
