"""Statistics over channels, in whatever class they are computed: the module that computes one masks it.

A trace meets them as functions, before PyTorch takes them apart. On the masked network,
:class:`mmdms.adapters.reductions.MaskedReductions` does the same calls under the masks that are noted here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ..network.call_sites import call_site
from ..ops.reductions import READERS, Reduction, reduction_of
from . import declarations
from .context import RuleContext
from .labels import canonical, compact, lies_along, varying_dims

REDUCES = 'reduces: '
"""Names of masks of statistics begin with this; then come the function and the line that calls it."""


def mask_name(line: str, dim: int) -> str:
    """Name of the mask of a dimension that a call reduces."""
    return f'{REDUCES}{line}, dimension {dim}'


class FollowedReductions(TorchFunctionMode):
    """Notes the masks of statistics over labelled dimensions while a tracer runs.

    Modules with an adapter say themselves what they mask.
    """

    def __init__(self, tracer: RuleContext) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in READERS:
            return func(*args, **kwargs)
        site = call_site(func)
        line = self._tracer.numbered(site.line)
        reduction = reduction_of(func, args, kwargs)
        if (
            reduction is None
            or site.owner is not self._tracer.running
            or isinstance(site.owner, declarations.Declares)
        ):
            return func(*args, **kwargs)
        x, dims = reduction.x, self._labelled(func, reduction)
        for dim in dims:
            declarations.note_mask(self._tracer, mask_name(line, dim), x, dim, removes=not reduction.keeps)
        if not dims or func in KNOWN_TO_RULES:
            return func(*args, **kwargs)
        return reduction.plain(declarations.hide(self._tracer, x, *dims))

    def _owns(self, module: nn.Module | None) -> bool:
        return module is self._tracer.running and not isinstance(module, declarations.Declares)

    def _labelled(self, func: Any, reduction: Reduction) -> list[int]:
        """The reduced dimensions along which elements lie, if a mask along each of them tells all that go."""
        with _disable_current_modes(), torch.no_grad():
            if self._tracer.records.get(reduction.x) is None or self._tracer.is_weight(reduction.x):
                return []
            labels = canonical(self._tracer.labels(reduction.x))
            dims = [dim for dim in varying_dims(labels) if dim in reduction.dims]
            if func in OVER_CHANNELS or self._tracer.store.factors_of(compact(labels)) is not None:
                return dims
            return [dim for dim in dims if lies_along(labels, dim)]


KNOWN_TO_RULES = {F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm}
"""Functions whose operation has a rule that follows elements through it where they are masked."""

OVER_CHANNELS = KNOWN_TO_RULES | {F.rms_norm, torch.rms_norm}
"""Functions that leave no doubt which dimension is that of the channels."""
