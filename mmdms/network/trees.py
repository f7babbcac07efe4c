"""Find the tensors in what a network takes and returns, whatever they are packed in."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from numbers import Number
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import ModelError


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in a value, in a fixed order.

    They are looked for in lists, tuples, dicts and other mappings, in what PyTorch knows how to flatten (outputs of
    Hugging Face's models among it), in dataclasses, and in the attributes of other objects. A cache of keys and values
    is left out: it is the state of layers, and their size is their own.
    """
    found: list[Tensor] = []
    _collect(value, found, {})
    return found


def comparable(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those tensors that hold floating-point or complex numbers."""
    return [t for t in tensors if (t.is_floating_point() or t.is_complex()) and t.numel()]


def check_comparable(outputs: Any, name: str) -> None:
    """Raise ``ModelError`` if nothing in the outputs of a network can be compared: no floating-point number at all.

    Args:
        outputs: what the network returned.
        name: what was called, for the message.
    """
    if comparable(tensors_of(outputs)):
        return
    parts = [type(part).__name__ for part in _children(outputs)]
    holds = f' of {", ".join(dict.fromkeys(parts))}' if parts else ''
    raise ModelError(
        f'{name} returned {_article(type(outputs).__name__)}{holds}, in which there is no tensor of floating-point '
        'numbers: two networks could not be told apart by it. Have it return the outputs of its layers, or name a '
        'function that does: forward=lambda model: model.my_function'
    )


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with all tensors in its containers replaced; containers are copied and keep their types.

    Objects that are neither a container nor a dataclass are handed on as they are.
    """
    if isinstance(value, Tensor):
        return change(value)
    children, structure = _flatten(value)
    if children is not None:
        return tree_unflatten([map_tensors(child, change) for child in children], structure)
    if isinstance(value, list):  # of a class of its own
        copied: Any = copy.copy(value)
        copied[:] = [map_tensors(item, change) for item in value]
        return copied
    if isinstance(value, MutableMapping):  # the output of a tokenizer is one that PyTorch does not know
        copied = copy.copy(value)
        for key in value:
            copied[key] = map_tensors(value[key], change)
        return copied
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(copied, field.name, map_tensors(getattr(value, field.name), change))
        return copied
    return value


def _collect(value: Any, found: list[Tensor], seen: dict[int, Any]) -> None:
    if isinstance(value, Tensor):
        found += value.unbind() if value.is_nested else [value]
        return
    if id(value) in seen or _is_cache(value):
        return
    seen[id(value)] = value
    for child in _children(value):
        _collect(child, found, seen)


def _children(value: Any) -> list[Any]:
    if value is None or isinstance(value, (Tensor, Number, str, bytes, type, nn.Module)):
        return []
    flattened, _ = _flatten(value)
    if flattened is not None:
        return flattened
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return list(getattr(value, '__dict__', {}).values())


def _is_cache(value: Any) -> bool:
    """Whether a value holds the keys and values that layers of attention keep between calls, which no one else reads.

    Told by its methods, as Hugging Face's ``Cache`` and its kinds have them.
    """
    return all(callable(getattr(type(value), method, None)) for method in ('update', 'get_seq_length'))


def _flatten(value: Any) -> tuple[list[Any] | None, Any]:
    """The parts of a container that PyTorch knows, and how to make one of others; None for anything else."""
    children, structure = tree_flatten(value, is_leaf=lambda part: part is not value)
    return (None, None) if len(children) == 1 and children[0] is value else (children, structure)


def _article(name: str) -> str:
    return name if name == 'NoneType' else f'a {name}'
