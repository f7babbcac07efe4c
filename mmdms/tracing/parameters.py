"""Recognise parameters and buffers, and views of them, inside traced operations."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn


def layer_of(parameter: str) -> str:
    """Name of the module that a parameter belongs to; of a parametrised weight the layer, not its parametrisation."""
    return re.sub(r'(^|\.)parametrizations\..*', '', parameter.rpartition('.')[0])


@dataclass(frozen=True)
class ParameterView:
    """A tensor that shows a whole parameter, its dimensions perhaps permuted.

    ``dims[i]`` is the parameter's dimension that the view's dimension ``i``
    shows, or None where the view has size 1 or repeats values.
    """

    name: str
    dims: tuple[int | None, ...]


class ParameterIndex:
    """Finds the parameter or buffer of ``model`` that a tensor is, or is a view of."""

    def __init__(self, model: nn.Module) -> None:
        self._by_storage: dict[int, list[tuple[str, Tensor]]] = {}
        self._values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in self._values.items():
            if tensor.numel():
                self._by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))

    def value(self, name: str) -> Tensor:
        """The parameter or buffer of a name."""
        return self._values[name]

    def owner(self, tensor: Tensor) -> tuple[str, Tensor] | None:
        """Name and value of the parameter whose memory ``tensor`` shows, if any."""
        if not tensor.numel():
            return None
        for name, parameter in self._by_storage.get(tensor.untyped_storage().data_ptr(), []):
            if tensor.dtype != parameter.dtype:  # the same memory seen as complex numbers, say
                continue
            begin = parameter.storage_offset()
            if begin <= tensor.storage_offset() < begin + parameter.numel():
                return name, parameter
        return None

    def view(self, tensor: Tensor) -> ParameterView | None:
        """Describe ``tensor`` as a view of a whole parameter; None if it is not one."""
        owner = self.owner(tensor)
        if owner is None:
            return None
        name, parameter = owner
        free = [dim for dim in range(parameter.dim()) if parameter.size(dim) > 1]
        dims: list[int | None] = []
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            match = None
            if size > 1 and stride > 0:
                match = next((d for d in free if parameter.size(d) == size and parameter.stride(d) == stride), None)
                if match is None:
                    return None
                free.remove(match)
            dims.append(match)
        return None if free else ParameterView(name, tuple(dims))

    def rows(self, tensor: Tensor) -> tuple[str, int] | None:
        """Name and first row of a matrix of which ``tensor`` (in, n) shows n whole rows, transposed; None otherwise.

        Attention that keeps the projections of queries, keys and values in one matrix reads it so.
        """
        owner = self.owner(tensor)
        if owner is None:
            return None
        name, parameter = owner
        if parameter.dim() != 2 or tensor.dim() != 2 or not parameter.is_contiguous():
            return None
        first, rest = divmod(int(tensor.storage_offset() - parameter.storage_offset()), parameter.size(1))
        fits = tensor.stride(0) == 1 and tensor.stride(1) == parameter.size(1) and tensor.size(0) == parameter.size(1)
        return (name, first) if fits and rest == 0 else None
