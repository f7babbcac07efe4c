"""Whether the processes of a distributed run hold the same numbers, found with one small collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import StructureError
from .collectives import all_reduce, rank, world_size


def check_agreement(values: Mapping[str, Tensor], unit: Tensor, units: Sequence[str]) -> None:
    """Raise unless all processes hold the same values, bit for bit.

    Every process must call this at the same step, with tensors of the same
    shapes. All of them raise, or none.

    Args:
        values: by what to call them in the message: tensors of shape (units,) or (elements,).
        unit: unit of every element, shape (elements,), ascending from 0.
        units: names of the units.

    Raises:
        StructureError: names the first unit that differs, and what of it.
    """
    if world_size() == 1:
        return
    sums = torch.stack([_checksums(value, unit, len(units)) for value in values.values()])
    # The largest of ~x is ~ of the smallest x: one collective finds both ends.
    ends = torch.stack([sums, ~sums])
    all_reduce(ends, 'max')
    parted = (ends[0] != ~ends[1]).cpu()
    if not parted.any():
        return
    index = int(parted.any(0).nonzero()[0])
    what = ' and '.join(name for name, differs in zip(values, parted[:, index].tolist(), strict=True) if differs)
    others = int(parted.any(0).sum()) - 1
    raise StructureError(
        f'the processes no longer search the same network: unit {units[index]!r} differs in {what}'
        + (f', and {others} other units differ' if others else '')
        + f' (said by process {rank()} of {world_size()}); go on from the last checkpoint with --resume, '
        'and let no code of your own change the mutator on one process alone'
    )


def _checksums(value: Tensor, unit: Tensor, units: int) -> Tensor:
    """A checksum per unit, int64, shape (units,), of the very bits of ``value``.

    Sums of whole numbers do not depend on their order, which on a GPU changes from call to call.
    """
    if value.is_floating_point():
        value = value.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()])
    bits = value.long()
    if len(bits) == units and len(unit) != units:
        return bits
    weight = 2 * torch.arange(len(bits), device=bits.device) + 1  # odd: what swaps places is noticed
    return bits.new_zeros(units).index_add_(0, unit, bits * weight)
