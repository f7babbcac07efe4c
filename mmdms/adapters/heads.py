"""Heads that normalise what they read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes

EPS = 1e-12
"""Smallest length that is divided by, as in ``F.normalize``."""


@ADAPTERS.register_module()
class NormProductAdapter(Adapter):
    """The product of ArcFace, of normalised features with normalised weights."""

    adapts = 'mmpretrain.models.heads.margin_head.NormProduct'

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, over the features that stay; x is (B, C)."""
        if self.feature_norm:
            mask = self._mmdms.follow('features', x, 1)
            kept = self._mmdms.hide(x, 1) if mask is None else x * mask.to(x.dtype)
            x = x / torch.linalg.vector_norm(kept, dim=1, keepdim=True).clamp_min(EPS)
        products = F.linear(x, self.weight)
        if self.weight_norm:
            products = products / torch.linalg.vector_norm(self.weight, dim=1).clamp_min(EPS)
        if self.bias is not None:
            products = products + self.bias
        return products if self.k == 1 else products.unflatten(1, (-1, self.k)).amax(2)

    def resized(self, old: Shapes) -> None:
        """A class has ``k`` rows of the weight."""
        self.out_features = len(self.weight) // self.k
