"""Change the class of a module, and change it back: one mechanism for masks, adapters and pass-throughs.

A module that is masked or adapted stays the same object under the same name. It is given a class that is made for it:
a subclass of its own class, which is called the *original*. Every change is a *level* on top of the original. A level
is written as ``(maker, *arguments)``; ``maker(kind, *arguments)`` returns what is added to ``kind``. An adapted and
masked attention, for example, has the levels ``((adapter_level, AttentionAdapter), (mask_level, ('weight',)))``.

- Classes are cached: the same levels on the same original give the same class.
- Levels come off again, in any order.
- A class that is made while a program runs cannot be imported by its name, so pickle could not write it. Makers and
  originals can: pickle writes them, and the class is made again where the pickle is read, in any process. Copies are
  made in the same way.

A module keeps what its levels need in its ``__dict__`` under names that begin with ``_mmdms_``.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from ..errors import ModelError

Level = tuple[Any, ...]
"""``(maker, *arguments)``; all of it can be hashed, and pickled by name."""

Maker = Callable[..., tuple[tuple[type, ...], dict[str, Any]]]
"""A function of a file, not a nested one: ``maker(kind, *arguments)`` returns bases and attributes of a subclass."""

PREFIX = '_mmdms_'
_LEVELS, _ORIGINAL = '_mmdms_levels', '_mmdms_original'

_made: WeakValueDictionary[tuple[type, Level], type] = WeakValueDictionary()


class Swapped:
    """A base of every class that is made here: how its modules are pickled."""

    def __init_subclass__(cls, **_: Any) -> None:
        """Hide the hook of the original: it may ask for arguments, or list its subclasses under a name."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        module: Any = self
        function, arguments, *rest = _as_original(module, lambda: module.__reduce_ex__(protocol))
        state, *items = rest or [None]
        return _remake, (levels_of(type(module)), function, arguments), (state, _own(module)), *items

    def __setstate__(self, state: Any) -> None:
        theirs, own = state
        if theirs is not None:
            super().__setstate__(theirs)  # type: ignore[misc]  # that of nn.Module
        self.__dict__.update(own)


def make_class(kind: type, *level: Any) -> type[nn.Module]:
    """The class ``kind`` with one more level on it.

    Args:
        kind: the class of a module, made here or not.
        level: a maker and its arguments (see :data:`Maker`).
    """
    key = kind, level
    found = _made.get(key)
    if found is None:
        maker, *arguments = level
        bases, attributes = maker(kind, *arguments)
        if not issubclass(kind, Swapped):
            bases = (Swapped, *bases)
            if hasattr(kind, '__deepcopy__'):
                attributes = {'__deepcopy__': _deepcopy, **attributes}
        names = dict(__module__=kind.__module__, __qualname__=kind.__qualname__)
        attributes = {**names, **attributes, _ORIGINAL: original_class(kind), _LEVELS: (*levels_of(kind), level)}
        found = types.new_class(kind.__name__, (*bases, kind), exec_body=lambda body: body.update(attributes))
        _made[key] = found
    return found


def swap_class(module: nn.Module, *level: Any) -> None:
    """Put a level on the class of a module, in place."""
    _set_class(module, make_class(type(module), *level))


def restore_class(module: nn.Module, maker: Maker) -> bool:
    """Take the levels of a maker off the class of a module, in place.

    Returns:
        Whether there was one.

    Raises:
        ModelError: if other code has since derived a class from the one that was made here.
    """
    kind = type(module)
    kept = tuple(level for level in levels_of(kind) if level[0] is not maker)
    if kept == levels_of(kind):
        return False
    if _LEVELS not in vars(kind):
        raise ModelError(
            f'the class of this {kind.__name__} was changed after mmdms changed it (by torch.nn.utils.parametrize or '
            'fully_shard, for example): undo the other change first'
        )
    _set_class(module, _with_levels(original_class(kind), kept))
    return True


def levels_of(kind: type) -> tuple[Level, ...]:
    """Levels of a class, the first one made first; empty for a class that was not made here."""
    found: tuple[Level, ...] = getattr(kind, _LEVELS, ())
    return found


def has_level(module: nn.Module, maker: Maker) -> bool:
    """Whether the class of a module has a level of this maker."""
    return any(level[0] is maker for level in levels_of(type(module)))


def original_class(kind: type) -> Any:
    """The class below all levels: ``kind`` itself if it was not made here."""
    return getattr(kind, _ORIGINAL, kind)


def _with_levels(kind: type, levels: tuple[Level, ...]) -> type:
    for level in levels:
        kind = make_class(kind, *level)
    return kind


def _set_class(module: Any, kind: type) -> None:
    object.__setattr__(module, '__class__', kind)  # a module may have a __setattr__ of its own


def _own(module: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name.startswith(PREFIX)}


def _as_original(module: Any, run: Callable[[], Any]) -> Any:
    """Run something while a module is of its original class: what it writes down then names that class."""
    kind = type(module)
    _set_class(module, original_class(kind))
    try:
        return run()
    finally:
        _set_class(module, kind)


def _remake(levels: tuple[Level, ...], function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What pickle calls: make a module as its original class does, and put the levels on it."""
    module = function(*arguments)
    _set_class(module, _with_levels(type(module), levels))
    return module


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """Copy a module whose original class has a ``__deepcopy__`` of its own."""
    copied = _as_original(self, lambda: self.__deepcopy__(memo))
    memo[id(self)] = copied
    if type(copied) is not type(self):
        _set_class(copied, _with_levels(type(copied), levels_of(type(self))))
    for name, value in _own(self).items():
        if name not in vars(copied):
            copied.__dict__[name] = copy.deepcopy(value, memo)
    return copied
