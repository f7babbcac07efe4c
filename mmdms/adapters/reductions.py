"""Statistics over channels in the forward of any module: they are those of the channels that stay."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..network.call_sites import Occurrences, call_site
from ..ops.reductions import READERS, Reduction, reduction_of
from ..tracing.reductions import mask_name
from .base import Adapter, adapt_module
from .tools import MASKS


class MaskedReductions(Adapter):
    """For modules in which a trace met statistics over channels; installed with their masks, and in no registry.

    The forward is that of the module. What it calls is looked at on the way.
    """

    only_masked = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module, its statistics over the channels that stay."""
        with _Masking(self):
            return super().forward(*args, **kwargs)


class _Masking(TorchFunctionMode):
    """While a module runs, its own calls of functions that reduce channels do so under its masks."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self._module = module
        self._lines = Occurrences()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READERS:
            site = call_site(func)
            if site.owner is self._module:
                line = self._lines.name(site.line)
                reduction = reduction_of(func, args, kwargs)
                mask = None if reduction is None else self._mask(reduction, line)
                if reduction is not None and mask is not None:
                    return reduction.masked(mask)
        return func(*args, **kwargs)

    def _mask(self, reduction: Reduction, line: str) -> Tensor | None:
        """Masks of all dimensions that a call reduces, as one that broadcasts; None where nothing is masked."""
        found = None
        for dim in reduction.dims:
            mask = self._module._mmdms.mask(mask_name(line, dim))
            if mask is not None:
                shape = [1] * reduction.x.dim()
                shape[dim] = -1
                found = mask.view(shape) if found is None else found * mask.view(shape)
        return found


def mask_reductions(model: nn.Module) -> None:
    """Give :class:`MaskedReductions` to all modules that hold masks, and have no adapter that asks for them."""
    for module in model.modules():
        if module.__dict__.get(MASKS) and not isinstance(module, Adapter):
            adapt_module(module, MaskedReductions, undoable=True)
