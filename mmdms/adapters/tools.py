"""What the forward of an adapter may say: the object that ``self._mmdms`` is in it."""

from __future__ import annotations

from torch import Tensor, nn

from ..tracing import declarations

MASKS = '_mmdms_inner'
"""Key of a module's ``__dict__`` under which installed masks lie: name -> function that returns the mask."""


class AdapterTools:
    """States what no operation of a module shows. Outside of a trace, the methods apply masks, or do nothing.

    Args:
        module: the adapted module.
    """

    __slots__ = ('module',)

    def __init__(self, module: nn.Module) -> None:
        self.module = module

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
        installed = self.module.__dict__.get(MASKS, {}).get(name)
        return None if installed is None else installed()

    def sized(self, attribute: str, x: Tensor, dim: int, kind: str = 'channels') -> None:
        """State that ``attribute`` of the module is the size of dimension ``dim`` of ``x``.

        Args:
            kind: of the units that these elements make up, a name in the registry ``MUTABLES``.
        """
        tracer = declarations.active_tracer()
        if tracer is not None:
            declarations.note_size(tracer, attribute, x, dim, kind)

    def begin(self, attribute: str, x: Tensor, dim: int, kind: str) -> Tensor:
        """``x``, whose positions along ``dim`` no layer outputs: ``attribute`` of the module says how many to make.

        They are elements of units of their own, removed by the weights that read them. A search sets the attribute.

        Args:
            kind: of these units, a name in the registry ``MUTABLES``.
        """
        tracer = declarations.active_tracer()
        return x if tracer is None else declarations.begin(tracer, attribute, x, dim, kind)

    def listed(self, attribute: str, x: Tensor, dim: int) -> None:
        """State that ``attribute`` of the module lists a number for every position along ``dim`` of ``x``."""
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
            heads, width: attributes of the module that hold both numbers. Every call with
                the same attribute shares its elements. Several widths lie one after the
                other in every head.
            kind: of the units of heads, a name in the registry ``MUTABLES``.
        """
        widths = (width,) if isinstance(width, str) else width
        tracer = declarations.active_tracer()
        if tracer is not None:
            return declarations.split_heads(tracer, x, dim, heads, widths, kind)
        return x.unflatten(dim, (getattr(self.module, heads), sum(getattr(self.module, name) for name in widths)))

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
        """``x``; its elements along ``dims`` are the module's own business from here on."""
        tracer = declarations.active_tracer()
        return x if tracer is None else declarations.hide(tracer, x, *dims)


TOOLS = tuple(name for name in vars(AdapterTools) if not name.startswith('_') and name != 'module')
"""Names of the methods."""
