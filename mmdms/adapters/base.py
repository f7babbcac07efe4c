"""Adapters: what a module type needs so that it can be searched and sliced."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from torch import nn

from ..network.module_swap import restore_class, swap_class
from ..registry import ADAPTERS
from ..tracing import declarations
from .own_names import Handle, OwnFirst, check_adapts, tool
from .tools import TOOLS

if TYPE_CHECKING:
    _Mixin = Any  # it runs with the attributes of whatever module it adapts
else:
    _Mixin = object


class Adapter(declarations.Declares, _Mixin):
    """Describes one module type; register a subclass in ``ADAPTERS``.

    Most modules need none: what their operations do to channels is traced. A
    module needs an adapter where its Python holds sizes (a number of heads, a
    split by an attribute), or where masks must act inside it (the statistics of a norm).

    The methods run with the adapted module as ``self``. An adapter with a
    ``forward`` takes the place of the module's own, in the supernet and in the
    subnet, and must compute the same; in it, the methods of ``self._mmdms`` say
    what no operation shows. An adapter without one only keeps attributes up to date.

    Attributes:
        adapts: the module type, or its dotted name, so that a package need not be
            installed, or the dotted names of several types. Subclasses are adapted too, unless they have a forward
            of their own.
        only_masked: the adapter is needed for masks alone; subnets keep the module's own forward.
        together: name of a child that holds blocks -> how many neighbours in it go or stay together.
        streams: of a block that hands on its first arguments in a tuple, their number.
        fused: names of children that a deployment fuses into others; they cost nothing.
    """

    adapts: ClassVar[type[nn.Module] | str | tuple[str, ...]]
    only_masked: ClassVar[bool] = False
    together: ClassVar[dict[str, int]] = {}
    streams: ClassVar[int] = 1
    fused: ClassVar[tuple[str, ...]] = ()

    def setup(self) -> None:
        """Add the attributes that ``forward`` needs, before anything shrinks. Called once."""

    def resized(self, old: dict[str, tuple[int, ...]]) -> None:
        """Update attributes from the new shapes of this module's tensors and children.

        Args:
            old: shapes that the module's own parameters and buffers had, by attribute, of those that shrank.
        """

    def blocks_removed(self, names: list[str]) -> None:
        """Update attributes once blocks inside this module were removed from a subnet.

        Args:
            names: of all removed blocks that are part of this module, as seen from it.
        """

    _mmdms: ClassVar[Any] = Handle()
    """The :class:`~mmdms.adapters.tools.AdapterTools` of the module, for use in ``forward``."""


for _name in TOOLS:  # ``self.follow(...)`` for ``self._mmdms.follow(...)``, where the module itself has no ``follow``
    setattr(Adapter, _name, tool(_name))


AnyAdapter = type[Adapter]


def adapters_of(kind: type[nn.Module]) -> Iterator[AnyAdapter]:
    """Adapters of a module type, those of its base classes first."""
    registered = list(_registered())
    for base in reversed(kind.__mro__):
        for adapter in registered:
            if _is_for(adapter, base):
                yield adapter


def _is_for(adapter: AnyAdapter, kind: type) -> bool:
    names = adapter.adapts if isinstance(adapter.adapts, tuple) else (adapter.adapts,)
    return kind in names or f'{kind.__module__}.{kind.__qualname__}' in names


def forward_adapter(kind: type[nn.Module]) -> tuple[AnyAdapter, type[nn.Module]] | None:
    """The adapter whose forward stands in for that of a module type, and the type that it was written for."""
    found = None
    registered = [adapter for adapter in _registered() if 'forward' in _own(adapter)]
    for base in reversed(kind.__mro__):
        if getattr(base, 'forward', None) is not kind.forward:
            continue  # a subclass has a forward of its own
        for adapter in registered:
            if _is_for(adapter, base):
                found = adapter, base
    return found


def adapt(model: nn.Module, masked: bool = False, only: AnyAdapter | None = None, undoable: bool = False) -> None:
    """Give every module of ``model`` that needs it the forward of its adapter, in place.

    Names, parameters and ``isinstance`` relations stay as they are. A module
    that is adapted already is left alone.

    Args:
        masked: adapt for a supernet, whose modules mask; else for a subnet.
        only: leave modules of other adapters as they are.
        undoable: whether :func:`unadapt` will be called, before anything shrinks.
    """
    cache: dict[type[nn.Module], AnyAdapter | None] = {}
    for module in model.modules():
        kind = type(module)
        if issubclass(kind, Adapter):
            continue
        if kind not in cache:
            found = forward_adapter(kind)
            cache[kind] = None if found is None else found[0]
        adapter = cache[kind]
        if adapter is None or (adapter.only_masked and not masked) or only not in (None, adapter):
            continue
        adapt_module(module, adapter, undoable)


def adapt_module(module: nn.Module, adapter: AnyAdapter, undoable: bool = False) -> None:
    """Give one module the forward of an adapter, in place; ``undoable`` as of :func:`adapt`."""
    before = _attributes(module)
    swap_class(module, adapter_level, adapter)
    adapter.setup(module)  # type: ignore[arg-type]
    if undoable:
        after = _attributes(module)
        replaced = {name: value for name, value in before.items() if after[name] is not value}
        module.__dict__[UNDO] = [name for name in after if name not in before], replaced


def unadapt(model: nn.Module) -> None:
    """Undo :func:`adapt`, in place, where it was undoable: class and attributes are those from before."""
    for module in list(model.modules()):
        added, replaced = module.__dict__.pop(UNDO, (None, None))
        if added is None:
            continue
        restore_class(module, adapter_level)
        for name in added:
            delattr(module, name)
        for name, value in replaced.items():
            setattr(module, name, value)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes that ``setup`` of an adapter may add or replace: plain ones and children."""
    return {**{name: value for name, value in module.__dict__.items() if name not in _STORES}, **module._modules}


UNDO = '_mmdms_undo'
"""Key of the ``__dict__`` of an adapted module: names that ``setup`` added, and what it replaced."""

_STORES = frozenset(nn.Module().__dict__) - {'training'}
"""What every module holds its parameters, buffers, children and hooks in."""


def knows_sizes(module: nn.Module) -> bool:
    """Whether adapters keep the attributes of a module up to date."""
    return next(adapters_of(type(module)), None) is not None


def foreign_adapters(model: nn.Module) -> list[AnyAdapter]:
    """Adapters with a forward that modules of ``model`` would be given, and that are not part of mmdms."""
    found = [
        forward_adapter(kind) for kind in {type(m): None for m in model.modules()} if not issubclass(kind, Adapter)
    ]
    return [pair[0] for pair in found if pair is not None and not pair[0].__module__.startswith('mmdms.')]


def streams_of(kind: type[nn.Module]) -> int:
    """How many of its first arguments a module type hands on."""
    return max((adapter.streams for adapter in adapters_of(kind)), default=1)


def streams(model: nn.Module) -> dict[str, int]:
    """Names of the modules that hand on several of their arguments, with the number."""
    found = {name: streams_of(type(module)) for name, module in model.named_modules()}
    return {name: count for name, count in found.items() if count > 1}


def groups(model: nn.Module) -> dict[str, int]:
    """Names of the containers whose blocks go in groups, with the size of a group."""
    found = {}
    for name, module in model.named_modules():
        for adapter in adapters_of(type(module)):
            for child, size in adapter.together.items():
                found[f'{name}.{child}' if name else child] = size
    return found


def fused(model: nn.Module) -> set[str]:
    """Names of the modules that a deployment fuses into others."""
    return {
        f'{name}.{child}' if name else child
        for name, module in model.named_modules()
        for adapter in adapters_of(type(module))
        for child in adapter.fused
        if _has(module, child)
    }


def _has(module: nn.Module, name: str) -> bool:
    try:
        return isinstance(module.get_submodule(name), nn.Module)
    except AttributeError:
        return False


def _registered() -> Iterator[AnyAdapter]:
    for adapter in ADAPTERS.module_dict.values():
        if adapter not in _checked and not adapter.__module__.startswith('mmdms.'):  # a test checks those
            check_adapts(adapter)
            _checked.add(adapter)
        yield adapter


_checked: WeakSet[Any] = WeakSet()
"""Adapters of users whose ``adapts`` names a class."""


def _own(adapter: AnyAdapter) -> set[str]:
    """Names that an adapter, or a base of it below :class:`Adapter`, defines."""
    return {name for base in adapter.__mro__ if base not in Adapter.__mro__ for name in vars(base)}


def adapter_level(kind: type[nn.Module], adapter: AnyAdapter) -> tuple[tuple[type, ...], dict[str, Any]]:
    """Level of a module's class (see :mod:`mmdms.network.module_swap`): the methods of an adapter.

    Names of :class:`Adapter` that the module has itself (a method ``follow``, a buffer ``mask``) stay the module's.
    """
    own = {name: getattr_static(kind, name, None) or OwnFirst(name, Adapter) for name in RESERVED}
    return (adapter,), own


RESERVED = tuple(name for name in vars(Adapter) if not name.startswith('_')) + ('adapts',)
