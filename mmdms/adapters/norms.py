"""Norms over channels: statistics are those of the channels that stay.

With masks ``m`` in [0, 1] over channels, the mean of ``x`` is ``sum(m * x) /
sum(m)`` and the variance ``sum(m * (x - mean)^2) / sum(m)``: with hard masks
those of the sliced norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.norms import masked_group_norm, masked_layer_norm
from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes


@ADAPTERS.register_module()
class LayerNormAdapter(Adapter):
    """``nn.LayerNorm`` over one dimension, with scale."""

    adapts = nn.LayerNorm
    only_masked = True

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, over the channels that stay."""
        if len(self.normalized_shape) != 1 or self.weight is None:
            return super().forward(x)
        mask = self._mmdms.follow('channels', x, -1)
        if mask is None:
            return super().forward(x)
        return masked_layer_norm(x, mask, self.weight, self.bias, self.eps)

    def resized(self, old: Shapes) -> None:
        """The shape follows the scale."""
        self.normalized_shape = tuple(self.weight.shape)


class _ImageLayerNorm(Adapter):
    """Layer norm over the channels of (B, C, H, W), or of (B, H, W, C) on request."""

    only_masked = True

    def forward(self, x: Tensor, data_format: str = 'channel_first') -> Tensor:
        """As the layer, over the channels that stay."""
        first = data_format == 'channel_first'
        mask = None if self.weight is None else self._mmdms.follow('channels', x, 1 if first else -1)
        if mask is None:
            return super().forward(x) if first else super().forward(x, data_format=data_format)
        if not first:
            return masked_layer_norm(x, mask, self.weight, self.bias, self.eps)
        x = masked_layer_norm(x.permute(0, 2, 3, 1), mask, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()

    def resized(self, old: Shapes) -> None:
        """The number of channels follows the scale."""
        self.num_channels = self.weight.numel()


@ADAPTERS.register_module()
class LayerNorm2dAdapter(_ImageLayerNorm):
    """mmpretrain's ``LN2d``."""

    adapts = 'mmpretrain.models.utils.norm.LayerNorm2d'


@ADAPTERS.register_module()
class GroupNormAdapter(Adapter):
    """Group norm: over one group statistics are masked; of several, whole groups go."""

    adapts = nn.GroupNorm
    only_masked = True
    num_groups: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, over the channels that stay."""
        mask = self._mmdms.follow('channels', x, 1) if self.num_groups == 1 and self.weight is not None else None
        if mask is None:
            return super().forward(x)
        return masked_group_norm(x, mask, self.weight, self.bias, self.eps)

    def resized(self, old: Shapes) -> None:
        """Channels follow the scale; groups keep their size, and their number follows."""
        (before,) = old['weight']
        channels = self.weight.numel()
        if self.num_groups > 1:
            self.num_groups = channels // (before // self.num_groups)
        self.num_channels = channels


@ADAPTERS.register_module()
class GRNAdapter(Adapter):
    """Global response norm (ConvNeXt V2): the mean of the responses is over the channels that stay."""

    adapts = 'mmpretrain.models.utils.norm.GRN'
    only_masked = True

    def forward(self, x: Tensor, data_format: str = 'channel_first') -> Tensor:
        """As the layer; x is (B, C, H, W), or (B, H, W, C) with ``data_format='channel_last'``."""
        channel, space = (1, (2, 3)) if data_format == 'channel_first' else (3, (1, 2))
        shape = [1, -1, 1, 1] if channel == 1 else [1, 1, 1, -1]
        response = torch.linalg.vector_norm(x, dim=space, keepdim=True)
        mask = self._mmdms.follow('channels', response, channel)
        if mask is None:
            mean = self._mmdms.hide(response, channel).mean(channel, keepdim=True)
        else:
            mean = (response * (mask / mask.sum()).to(x.dtype).view(shape)).sum(channel, keepdim=True)
        scaled = x * (response / (mean + self.eps))
        return self.gamma.view(shape) * scaled + self.beta.view(shape) + x

    def resized(self, old: Shapes) -> None:
        """The number of channels follows the scale."""
        self.in_channels = self.gamma.numel()
