"""Names that a module and its adapter both use, and the name of the class that an adapter is for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import AdapterError
from .tools import AdapterTools


class Handle:
    """``self._mmdms`` of an adapted module. It is no property: TorchScript would compile it."""

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        return self if module is None else AdapterTools(module)


def tool(name: str) -> Callable[..., Any]:
    """A method that calls the tool of this name: the spelling of adapters that were written before ``_mmdms``."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._mmdms, name)(*args, **kwargs)

    call.__name__ = name
    call.__doc__ = f'See :meth:`mmdms.adapters.tools.AdapterTools.{name}`.'
    return call


class OwnFirst:
    """An attribute of an adapted module: the parameter, buffer or child of this name; the adapter's if there is none.

    It is no data descriptor, so that an attribute in the module's ``__dict__`` comes first too.
    """

    def __init__(self, name: str, adapter: type) -> None:
        self.name = name
        self.adapter = adapter

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        if module is not None:
            for store in (module._parameters, module._buffers, module._modules):
                if self.name in store:
                    return store[self.name]
        for base in kind.__mro__:
            if issubclass(base, self.adapter) and not issubclass(base, nn.Module) and self.name in vars(base):
                found = vars(base)[self.name]
                return found.__get__(module, kind) if hasattr(found, '__get__') else found
        raise AttributeError(f'{kind.__name__!r} object has no attribute {self.name!r}')


def check_adapts(adapter: Any) -> None:
    """Check the class that an adapter says it is for; nothing where the package of that class is not installed.

    Raises:
        AdapterError: if ``adapts`` is missing, or names no class of modules.
    """
    who = f'adapter {adapter.__name__}'
    adapts = getattr(adapter, 'adapts', None)
    if adapts is None or adapts == ():
        raise AdapterError(f"{who} has no adapts: set it to a class, or to its dotted name 'package.module.Class'")
    for one in adapts if isinstance(adapts, tuple) else (adapts,):
        _check_class(who, one)


def _check_class(who: str, adapts: Any) -> None:
    """Check one class, or dotted name of a class, that an adapter is for."""
    if isinstance(adapts, type) and issubclass(adapts, nn.Module):
        return
    if not isinstance(adapts, str) or '.' not in adapts:
        raise AdapterError(
            f'adapts of {who} is {adapts!r}: set it to a subclass of nn.Module, or to its dotted name '
            "'package.module.Class'"
        )
    installed, found = _named(adapts)
    if not installed:
        return
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise AdapterError(
            f'adapts of {who} is {adapts!r}, but {adapts.partition(".")[0]!r} is installed and has no class of '
            'modules of this name: correct it'
        )
    name = f'{found.__module__}.{found.__qualname__}'
    if name != adapts:
        raise AdapterError(f'adapts of {who} is {adapts!r}, a second name of {name!r}: set it to {name!r}')


def _named(dotted: str) -> tuple[bool, Any]:
    """Whether the package of a dotted name can be imported, and the object; None if there is no such object."""
    parts = dotted.split('.')
    found: Any = None
    depth = 0
    for depth in range(1, len(parts)):  # noqa: B007
        try:
            found = importlib.import_module('.'.join(parts[:depth]))
        except ModuleNotFoundError as error:
            if error.name != '.'.join(parts[:depth]) or depth == 1:
                return False, None  # it, or a package that it needs, is not installed
            depth -= 1
            break
        except Exception:  # a broken package raises anything
            return False, None
    for part in parts[depth:]:
        found = getattr(found, part, None)
    return True, found
