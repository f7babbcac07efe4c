"""Adapters: what a module type needs so that it can be searched and sliced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..network.module_swap import restore_class, swap_class
from ..registry import ADAPTERS
from ..tracing import declarations

MASKS = '_mmdms_inner'
"""Key of a module's ``__dict__`` under which installed masks lie: name -> function that returns the mask."""

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
    subnet, and must compute the same; in it, the methods below say what no
    operation shows. An adapter without one only keeps attributes up to date.

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

    # ---- for use in ``forward`` ----------------------------------------------------

    def follow(self, name: str, x: Tensor, dim: int, removes: bool = False) -> Tensor | None:
        """Mask of the elements along dimension ``dim`` of ``x``, to be applied by the caller.

        Args:
            name: tells several masks of one module apart.
            x, dim: a tensor and one of its dimensions.
            removes: whether the caller's use of the mask takes the elements out of all that follows.

        Returns:
            Shape ``(x.size(dim),)``; None where nothing is masked.
        """
        tracer = declarations.active_tracer()
        if tracer is not None:
            declarations.note_mask(tracer, name, x, dim, removes)
            return None
        return self.mask(name)

    def mask(self, name: str) -> Tensor | None:
        """The mask installed under ``name``; None where nothing is masked."""
        installed = self.__dict__.get(MASKS, {}).get(name)
        return None if installed is None else installed()

    def sized(self, attribute: str, x: Tensor, dim: int, kind: str = 'channels') -> None:
        """State that ``attribute`` of this module is the size of dimension ``dim`` of ``x``.

        Args:
            kind: of the units that these elements make up, a name in the registry ``MUTABLES``.
        """
        tracer = declarations.active_tracer()
        if tracer is not None:
            declarations.note_size(tracer, attribute, x, dim, kind)

    def begin(self, attribute: str, x: Tensor, dim: int, kind: str) -> Tensor:
        """``x``, whose positions along ``dim`` no layer outputs: ``attribute`` of this module says how many to make.

        They are elements of units of their own, removed by the weights that read them. A search sets the attribute.

        Args:
            kind: of these units, a name in the registry ``MUTABLES``.
        """
        tracer = declarations.active_tracer()
        return x if tracer is None else declarations.begin(tracer, attribute, x, dim, kind)

    def listed(self, attribute: str, x: Tensor, dim: int) -> None:
        """State that ``attribute`` of this module lists a number for every position along ``dim`` of ``x``."""
        tracer = declarations.active_tracer()
        if tracer is not None:
            declarations.note_list(tracer, attribute, x, dim)

    def split_heads(
        self,
        x: Tensor,
        heads: str = 'num_heads',
        width: str | tuple[str, ...] = 'head_dims',
        dim: int = -1,
        kind: str = 'heads',
    ) -> Tensor:
        """Unflatten dimension ``dim`` of ``x`` into heads times width, which shrink apart.

        Args:
            heads, width: attributes of this module that hold both numbers. Every call with
                the same attribute shares its elements. Several widths lie one after the
                other in every head.
            kind: of the units of heads, a name in the registry ``MUTABLES``.
        """
        widths = (width,) if isinstance(width, str) else width
        tracer = declarations.active_tracer()
        if tracer is not None:
            return declarations.split_heads(tracer, x, dim, heads, widths, kind)
        return x.unflatten(dim, (getattr(self, heads), sum(getattr(self, name) for name in widths)))

    def contract(self, name: str, a: Tensor, b: Tensor, dim: int = -1, both: bool = False) -> tuple[Tensor, Tensor]:
        """Mask ``a`` along ``dim``, along which the caller will sum the product of ``a`` and ``b``.

        Args:
            both: mask ``b`` too, for a caller that does more than multiply (that normalises first, say).

        Returns:
            ``a``, masked, and ``b``.
        """
        tracer = declarations.active_tracer()
        if tracer is not None:
            return declarations.contract(tracer, name, a, b, dim)
        mask = self.mask(name)
        if mask is None:
            return a, b
        mask = mask.view([-1] + [1] * (-dim - 1 if dim < 0 else a.dim() - dim - 1))
        return a * mask.to(a.dtype), b * mask.to(b.dtype) if both else b

    def tie(self, a: Tensor, b: Tensor) -> None:
        """State that elements at equal positions of two tensors (after broadcasting) are one."""
        tracer = declarations.active_tracer()
        if tracer is not None:
            declarations.tie(tracer, a, b)

    def carry(self, out: Tensor, x: Tensor, dim: int) -> Tensor:
        """``out``; each of its positions along ``dim`` was computed from that of ``x`` alone, unseen by the tracer."""
        tracer = declarations.active_tracer()
        return out if tracer is None else declarations.carry(tracer, out, x, dim)

    def hide(self, x: Tensor, *dims: int) -> Tensor:
        """``x``; its elements along ``dims`` are this module's own business from here on."""
        tracer = declarations.active_tracer()
        return x if tracer is None else declarations.hide(tracer, x, *dims)


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
    ADAPTERS.import_from_location()
    return iter(ADAPTERS.module_dict.values())


def _own(adapter: AnyAdapter) -> set[str]:
    """Names that an adapter, or a base of it below :class:`Adapter`, defines."""
    return {name for base in adapter.__mro__ if base not in Adapter.__mro__ for name in vars(base)}


def adapter_level(kind: type[nn.Module], adapter: AnyAdapter) -> tuple[tuple[type, ...], dict[str, Any]]:
    """Level of a module's class (see :mod:`mmdms.network.module_swap`): the methods of an adapter."""
    return (adapter,), {}
