"""Copy a network, also one that keeps tensors of a computation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import ModelError

Network = TypeVar('Network', bound=nn.Module)


def copy_network(
    model: Network, known: Mapping[int, Any] | None = None, device: torch.device | str | None = None
) -> Network:
    """A deep copy of a network: parameters, buffers and plain data.

    PyTorch refuses to copy a tensor that hangs on a graph. Modules hold such tensors all the same: an activation that
    was kept (``self.features = x``), the weight that ``spectral_norm`` and the old ``weight_norm`` compute. The copy
    gets their values, without the graph; ``model`` keeps its own.

    Args:
        model: any network; not changed.
        known: what the copy holds instead of an object of ``model``, by the ``id`` of that object; a tensor mapped
            to itself is shared.
        device: where the tensors of the copy lie, those that modules keep as plain attributes too; where they lie in
            ``model`` if None.

    Raises:
        ModelError: if a module holds an object that Python cannot copy; the message names both.
    """
    try:
        with _WithoutGraphs(device):
            copied = copy.deepcopy(model, dict(known or {}))
        return copied if device is None else copied.to(device)
    except Exception as error:  # an object may raise anything when it is copied
        raise ModelError(f'the network cannot be copied: {_culprit(model, error)}') from error


class _WithoutGraphs(TorchFunctionMode):
    """Tensors that hang on a graph are copied as if they were plain values; plain tensors may change their device."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and (not args[0].is_leaf or self._moves(args[0])):
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().to(self._device or tensor.device, copy=True)
            return memo[id(tensor)]
        return func(*args, **kwargs or {})

    def _moves(self, tensor: Tensor) -> bool:
        return self._device is not None and type(tensor) is Tensor and tensor.device != torch.device(self._device)


def _culprit(model: nn.Module, error: Exception) -> str:
    """Which attribute of which module raised this, and what to do."""
    shared: dict[int, Any] = {id(part): part for part in [*model.modules(), *model.parameters(), *model.buffers()]}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            try:
                with _WithoutGraphs():
                    copy.deepcopy(value, dict(shared))
            except Exception as found:
                where = f'{name}.{attribute}' if name else attribute
                return (
                    f'{where} (a {type(value).__name__} of {type(module).__name__}) raises '
                    f'{type(found).__name__}: {found}. Set it to None for as long as mmdms works with the network, '
                    'or give its class a method __deepcopy__'
                )
    return f'{type(error).__name__}: {error}'
