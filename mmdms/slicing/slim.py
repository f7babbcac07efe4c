"""Slice a network down to a structure."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..adapters.base import adapt
from ..masks.channel_masks import check_fits, without_masks
from ..space.search_space import FIXED, SearchSpace
from ..space.structure import Structure
from .resize import remove_blocks, replace_tensors, set_sizes


def slim(model: nn.Module, space: SearchSpace, structure: Structure, share_tensors: bool = False) -> nn.Module:
    """Return a smaller copy of ``model`` that holds only what ``structure`` keeps.

    The copy is of the class of ``model``, with plain, smaller parameters sliced
    from those of ``model``; removed blocks give way to a pass-through. Masks of a
    search are left out.

    Args:
        model, space, structure: the supernet, what may be removed from it, and what stays.
        share_tensors: whether tensors that keep their size are those of ``model`` itself:
            cheaper, for a network that only runs forward.

    Raises:
        StructureError: if the structure is not one of ``space``, or the space none of ``model``.
    """
    mask = space.mask(structure)
    check_fits(space, model)
    subnet = without_masks(model, share_tensors)
    # Sizes first: a removed block may hold the name of a weight that it shares with one that stays.
    adapt(subnet)
    set_sizes(subnet, kept_sizes(space, mask))
    replace_tensors(subnet, sliced_tensors(subnet, space, mask))
    remove_blocks(subnet, removed_blocks(space, mask), space.tuples)
    return subnet


def removed_blocks(space: SearchSpace, mask: Tensor) -> list[str]:
    """Names of the blocks that a mask (elements,) removes."""
    return [name for element, group in space.blocks.items() if not mask[element] for name in group]


def kept_sizes(space: SearchSpace, mask: Tensor) -> dict[str, int | list[int]]:
    """Attributes of modules, by ``'module.attribute'``, that hold how many positions a mask keeps, or which."""
    found: dict[str, int | list[int]] = {}
    for size in space.sizes:
        stay = kept(size.elements, mask)
        name = f'{size.module}.{size.attribute}' if size.module else size.attribute
        if size.values is None:
            found[name] = int(int(stay.sum()) / size.times)
        else:
            found[name] = [size.values[i] for i in stay.nonzero().flatten()]
    return found


def kept(elements: Tensor, mask: Tensor) -> Tensor:
    """Which positions of an axis stay, shape (positions,), of its elements (positions, factors)."""
    assert FIXED == -1  # so that one more element at the end stands for positions that always stay
    return torch.cat([mask.bool().cpu(), torch.ones(1, dtype=torch.bool)])[elements].all(1)


def sliced_tensors(model: nn.Module, space: SearchSpace, mask: Tensor) -> dict[str, Tensor]:
    """Sliced value of every parameter and buffer of ``model`` that shrinks."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    places: dict[str, dict[int, Tensor]] = {}
    for axis in space.axes:
        stay = kept(axis.elements, mask).nonzero().flatten()
        if stay.numel() < len(axis.elements):
            places.setdefault(axis.parameter, {})[axis.dim] = stay
    return {name: _selected(tensors[name].detach(), dims) for name, dims in places.items()}


def _selected(value: Tensor, places: dict[int, Tensor]) -> Tensor:
    """What lies at some places along some dimensions."""
    dims = {dim: stay.to(value.device) for dim, stay in sorted(places.items())}
    layout = _layout(value)
    if len(dims) == 1 and layout is torch.contiguous_format:
        ((dim, stay),) = dims.items()
        return value.index_select(dim, stay)
    # Some of the first dimension after the other: all of it is not held beside the result.
    first, *others = dims
    shape = [len(dims.get(dim, range(size))) for dim, size in enumerate(value.shape)]
    result = torch.empty(shape, dtype=value.dtype, device=value.device, memory_format=layout)
    step = max(LARGE * value.size(first) // max(value.numel(), 1), 1)
    for begin in range(0, len(dims[first]), step):
        part = value.index_select(first, dims[first][begin : begin + step])
        for dim in others:
            part = part.index_select(dim, dims[dim])
        result.narrow(first, begin, part.size(first)).copy_(part)
    return result


def _layout(value: Tensor) -> torch.memory_format:
    """How the values of a tensor lie in memory: with the channels last, or as usual."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(value.dim(), torch.contiguous_format)
    strides = value.stride()
    usual = all(one >= other for one, other in pairwise(strides))  # a tensor of 1x1 kernels may count as both
    return torch.contiguous_format if usual or not value.is_contiguous(memory_format=last) else last


LARGE = 1 << 20
"""About so many values are looked at together."""
