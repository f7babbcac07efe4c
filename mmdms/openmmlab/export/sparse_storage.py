"""Store weights that are mostly zeros in less room."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPARSE = 'mmdms_sparse'
"""Key of a checkpoint beside ``state_dict``: by name, weights as their nonzero values and one bit per position."""


def compress(state_dict: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Any]:
    """A checkpoint whose weights ``names`` take less room, those where it is less.

    Args:
        state_dict: dense tensors on the CPU.
        names: of tensors with zeros.

    Returns:
        ``{'state_dict': the other tensors, 'mmdms_sparse': ...}``, which :func:`expand` turns back.
    """
    dense, sparse = dict(state_dict), {}
    for name in names:
        tensor = dense[name].flatten()
        kept = tensor != 0
        values = tensor[kept]
        if values.numel() * values.element_size() + len(kept) / 8 < tensor.numel() * tensor.element_size():
            bits = torch.from_numpy(np.packbits(kept.numpy()))
            sparse[name] = dict(shape=list(dense.pop(name).shape), bits=bits, values=values)
    return {'state_dict': dense, SPARSE: sparse}


def expand(checkpoint: dict[str, Any]) -> None:
    """Put the weights that :func:`compress` took out of ``checkpoint['state_dict']`` back, in place.

    Raises:
        ValueError: if what is stored does not fit its own shape.
    """
    for name, stored in (checkpoint.pop(SPARSE, None) or {}).items():
        size = prod(stored['shape'])
        bits = stored['bits'].numpy()
        if len(bits) != -(-size // 8):
            raise ValueError(f'{name!r} of shape {stored["shape"]} has {len(bits)} bytes of positions: it is damaged')
        kept = torch.from_numpy(np.unpackbits(bits, count=size)).bool()
        if int(kept.sum()) != stored['values'].numel():
            raise ValueError(f'{name!r} has {stored["values"].numel()} values for {int(kept.sum())} positions')
        tensor = stored['values'].new_zeros(size)
        tensor[kept] = stored['values']
        checkpoint['state_dict'][name] = tensor.view(stored['shape'])
