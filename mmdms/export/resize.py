"""Give modules new parameter shapes and the attributes that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Resizer = Callable[[Any, dict[str, tuple[int, ...]]], None]
_RESIZERS: list[tuple[type, Resizer]] = []


def resizer(kind: type) -> Callable[[Resizer], Resizer]:
    """Register how attributes of a module type follow its parameter shapes.

    The function is called with the module and its old shapes by attribute name,
    after the parameters were replaced.
    """

    def register(function: Resizer) -> Resizer:
        _RESIZERS.append((kind, function))
        return function

    return register


@resizer(nn.modules.conv._ConvNd)
def _conv(module: nn.modules.conv._ConvNd, old: dict[str, tuple[int, ...]]) -> None:
    first, second = module.weight.shape[:2]
    if module.groups > 1 and old['weight'][1] == 1:  # depthwise: groups follow the channels
        module.groups = first // (old['weight'][0] // module.groups)
    if module.transposed:
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        module.in_channels, module.out_channels = second * module.groups, first


@resizer(nn.Linear)
def _linear(module: nn.Linear, old: dict[str, tuple[int, ...]]) -> None:
    module.out_features, module.in_features = module.weight.shape


@resizer(nn.modules.batchnorm._NormBase)
def _batch_norm(module: nn.modules.batchnorm._NormBase, old: dict[str, tuple[int, ...]]) -> None:
    for name in ('weight', 'running_mean'):
        if getattr(module, name) is not None:
            module.num_features = getattr(module, name).numel()


@resizer(nn.PReLU)
def _prelu(module: nn.PReLU, old: dict[str, tuple[int, ...]]) -> None:
    module.num_parameters = module.weight.numel()


class Passthrough(nn.Module):
    """Stands where a block was removed: returns its first argument."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``x`` as it is."""
        return x


def replace_tensors(model: nn.Module, new: dict[str, Tensor]) -> None:
    """Replace parameters and buffers by name, wherever they are shared, and update attributes.

    Args:
        model: changed in place.
        new: name to new value; a parameter keeps its ``requires_grad``.
    """
    by_id = {id(t): new[name] for name, t in [*model.named_parameters(), *model.named_buffers()] if name in new}
    replaced: dict[int, nn.Parameter] = {}
    for module in model.modules():
        old: dict[str, tuple[int, ...]] = {}
        for attribute, tensor in list(_own_tensors(module)):
            if id(tensor) not in by_id:
                continue
            old[attribute] = tuple(tensor.shape)
            value = by_id[id(tensor)]
            if isinstance(tensor, nn.Parameter):
                value = replaced.setdefault(id(tensor), nn.Parameter(value, requires_grad=tensor.requires_grad))
                module._parameters[attribute] = value
            else:
                module._buffers[attribute] = value
        if old:
            for kind, function in _RESIZERS:
                if isinstance(module, kind):
                    function(module, old)


def remove_blocks(model: nn.Module, names: Iterable[str]) -> None:
    """Put a :class:`Passthrough` in the place of every named block, in place."""
    for name in names:
        parent, _, child = name.rpartition('.')
        setattr(model.get_submodule(parent), child, Passthrough())


def reset_parameters(model: nn.Module, names: Iterable[str]) -> None:
    """Initialise the modules that own these tensors as PyTorch does for their new shapes."""
    for module_name in dict.fromkeys(name.rpartition('.')[0] for name in names):
        module = model.get_submodule(module_name)
        if callable(reset := getattr(module, 'reset_parameters', None)):
            with torch.no_grad():
                reset()


def _own_tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for store in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in store.items() if tensor is not None)
