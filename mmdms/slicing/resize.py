"""Give modules new parameter shapes and the attributes that go with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..adapters.base import adapters_of, streams_of
from .passthrough import Passthrough as Passthrough
from .passthrough import pass_through


def replace_tensors(model: nn.Module, new: dict[str, Tensor]) -> None:
    """Replace parameters and buffers by name, wherever they are shared, and have adapters update attributes.

    Args:
        model: changed in place.
        new: name to new value; a parameter keeps its ``requires_grad``.
    """
    touched = swap_tensors(model, new)
    holders = {holder for name in touched for holder in _with_parents(name)}
    for module_name in sorted(holders, key=lambda name: -name.count('.') if name else 1):  # children first
        module = model.get_submodule(module_name)
        for adapter in adapters_of(type(module)):
            adapter.resized(module, touched.get(module_name, {}))  # type: ignore[arg-type]


def swap_tensors(model: nn.Module, new: dict[str, Tensor]) -> dict[str, dict[str, tuple[int, ...]]]:
    """As :func:`replace_tensors`, but attributes stay.

    Returns:
        The shapes from before of all that was replaced, by module and by its attribute.
    """
    by_id = {id(t): new[name] for name, t in [*model.named_parameters(), *model.named_buffers()] if name in new}
    replaced: dict[int, nn.Parameter] = {}
    touched: dict[str, dict[str, tuple[int, ...]]] = {}
    for module_name, module in model.named_modules():
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
            touched[module_name] = old
    return touched


def _with_parents(name: str) -> Iterable[str]:
    while name:
        yield name
        name = name.rpartition('.')[0]
    yield ''


def set_sizes(model: nn.Module, sizes: Mapping[str, int | Sequence[int]]) -> None:
    """Set attributes of modules that hold sizes, or list positions, by ``'module.attribute'``.

    ``'module.attribute[0]'`` is the first item of a tuple.
    """
    for name, value in sizes.items():
        module_name, _, attribute = name.rpartition('.')
        module = model.get_submodule(module_name)
        attribute, _, place = attribute.partition('[')
        if place:
            items = list(getattr(module, attribute))
            items[int(place.rstrip(']'))] = value
            setattr(module, attribute, tuple(items))
        else:
            setattr(module, attribute, value)


def remove_blocks(model: nn.Module, names: Collection[str], tuples: Collection[str] = ()) -> None:
    """Put a :class:`Passthrough` in the place of every named block, in place.

    Args:
        tuples: blocks that return a tuple of one tensor.
    """
    for name in names:
        parent, _, child = name.rpartition('.')
        block = model.get_submodule(name)
        streams = streams_of(type(block))
        setattr(model.get_submodule(parent), child, pass_through(block, streams, streams > 1 or name in tuples))
    _tell_holders(model, names)


def _tell_holders(model: nn.Module, removed: Collection[str]) -> None:
    """Have adapters of the modules around removed blocks update attributes."""
    holders = {holder for name in removed for holder in _with_parents(name)} - set(removed)
    for holder in sorted(holders, key=lambda name: -name.count('.') if name else 1):  # children first
        module = model.get_submodule(holder)
        inside = f'{holder}.' if holder else ''
        own = [name.removeprefix(inside) for name in removed if name.startswith(inside)]
        for adapter in adapters_of(type(module)):
            adapter.blocks_removed(module, own)  # type: ignore[arg-type]


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
