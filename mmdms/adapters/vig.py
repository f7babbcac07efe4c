"""ViG: a graph of the nearest neighbours, whose distances are those in the channels that stay."""

from __future__ import annotations

from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class KnnGraphAdapter(Adapter):
    """Searches neighbours; its result are positions, so only the distances need masks."""

    adapts = 'mmpretrain.models.backbones.vig.DenseDilatedKnnGraph'
    only_masked = True

    def forward(self, x: Tensor, y: Tensor | None = None, relative_pos: Tensor | None = None) -> Tensor:
        """As the module; x is (B, C, N, 1), y (B, C, M, 1)."""
        return super().forward(self._kept(x), None if y is None else self._kept(y), relative_pos)

    def _kept(self, points: Tensor) -> Tensor:
        mask = self._mmdms.follow('channels', points, 1)
        points = self._mmdms.hide(points, 1).detach()
        return points if mask is None else points * mask.detach().to(points.dtype).view(-1, 1, 1)
