"""HorNet: recursive gated convolutions, and norms of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.norms import masked_layer_norm
from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes


@ADAPTERS.register_module()
class HorNetLayerNormAdapter(Adapter):
    """Layer norm over the channels of (B, H, W, C), or of (B, C, H, W)."""

    adapts = 'mmpretrain.models.backbones.hornet.HorNetLayerNorm'
    only_masked = True

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, over the channels that stay."""
        if self.data_format == 'channels_first':
            return self.channels_first(x)
        mask = self._mmdms.follow('channels', x, -1)
        if mask is None:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return masked_layer_norm(x, mask, self.weight, self.bias, self.eps)

    def channels_first(self, x: Tensor) -> Tensor:
        """As the layer, over the channels of (B, C, H, W) that stay."""
        mask = self._mmdms.follow('channels', x, 1)

        def mean(values: Tensor) -> Tensor:
            if mask is None:
                return values.mean(1, keepdim=True)
            return (values * (mask / mask.sum()).to(x.dtype).view(-1, 1, 1)).sum(1, keepdim=True)

        hidden = self._mmdms.hide(x, 1)
        average = mean(hidden)
        normed = (x - average) / torch.sqrt(mean((hidden - average).square()) + self.eps)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]

    def resized(self, old: Shapes) -> None:
        """The shape follows the scale."""
        self.normalized_shape = tuple(self.weight.shape)


@ADAPTERS.register_module()
class GnConvAdapter(Adapter):
    """The recursive gated convolution: its forward splits by a list of widths."""

    adapts = 'mmpretrain.models.backbones.hornet.gnConv'

    def resized(self, old: Shapes) -> None:
        """Every order is as wide as what the projection behind it reads."""
        self.dims = [projection.in_channels for projection in (*self.projs, self.proj_out)]


@ADAPTERS.register_module()
class GlobalLocalFilterAdapter(Adapter):
    """A depthwise convolution of one half of the channels, a filter of frequencies of the other."""

    adapts = 'mmpretrain.models.backbones.hornet.GlobalLocalFilter'

    def forward(self, x: Tensor) -> Tensor:
        """As the module, which computes in float32; here in float64 where its weights are; x is (B, C, H, W)."""
        near, far = self.pre_norm(x).chunk(2, dim=1)
        weight = self.complex_weight
        frequencies = torch.fft.rfft2(far.to(torch.promote_types(weight.dtype, torch.float32)), norm='ortho')
        size = frequencies.shape[2:]
        if weight.shape[1:3] != size:
            weight = weight.permute(3, 0, 1, 2)
            weight = F.interpolate(weight, size=size, mode='bilinear', align_corners=True).permute(1, 2, 3, 0)
        frequencies = frequencies * torch.view_as_complex(weight.contiguous())
        far = torch.fft.irfft2(frequencies, s=x.shape[2:], norm='ortho')
        return self.post_norm(torch.stack([self.dw(near), far], dim=2).flatten(1, 2))
