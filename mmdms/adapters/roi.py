"""Regions of interest: every channel is pooled on its own, by operations that the dispatcher cannot see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class RoIAlignAdapter(Adapter):
    """mmcv's pooling of features (B, C, H, W) over boxes (n, 5), to (n, C, h, w)."""

    adapts = 'mmcv.ops.roi_align.RoIAlign'

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """As the layer."""
        return self._mmdms.carry(super().forward(features, rois), features, 1)


@ADAPTERS.register_module()
class SingleRoIExtractorAdapter(Adapter):
    """Pools every box from the level of the pyramid that fits its size.

    mmdet writes what it pools into zeros of ``out_channels``; joined in the order of the levels and put
    back into that of the boxes, it is the same.
    """

    adapts = 'mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor.SingleRoIExtractor'

    def forward(self, feats: Any, rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """As the module; one feature map (B, C, H, W) per level, boxes (n, 5), to (n, C, h, w)."""
        rois = rois.type_as(feats[0])
        self._mmdms.sized('out_channels', feats[0], 1)
        if len(rois) == 0:
            empty = feats[0].new_zeros(0, feats[0].size(1), *self.roi_layers[0].output_size)
            return empty + sum(_nothing(level) for level in feats) if len(feats) > 1 else empty
        if len(feats) == 1:
            return self.roi_layers[0](feats[0], rois)
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        places = [(levels == level).nonzero().squeeze(1) for level in range(len(feats))]
        pooled = [
            layer(level, rois[place]) for layer, level, place in zip(self.roi_layers, feats, places) if len(place)
        ]
        found = torch.cat(pooled)[torch.cat(places).argsort()]
        for level, place in zip(feats, places):
            if not len(place):
                found = found + _nothing(level)
        return found


def _nothing(level: Tensor) -> Tensor:
    """Zeros (C, 1, 1) computed from a level without boxes, so that all its weights have gradients on every rank."""
    return level.sum((0, 2, 3))[:, None, None] * 0.0
