"""Convolutions with standardised weights: the statistics are over the input channels that stay.

With masks ``m`` in [0, 1] over input channels, the mean of a filter ``w`` is ``sum(m * w) / sum(m)`` and its variance
``sum(m * (w - mean)^2) / sum(m)``, both over the positions of the kernel too: with hard masks those of the sliced
filter.
"""

from __future__ import annotations

import importlib
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


class _StandardisedConv(Adapter):
    """Standardises ``weight`` under the mask of the input channels."""

    only_masked = True
    unbiased: ClassVar[bool] = False

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, over the channels that stay; x is (B, C, H, W)."""
        per_group = self.weight.size(1)
        # With one channel in a group, each filter has the statistics of that channel alone.
        mask = self._mmdms.follow('inputs', x, 1, removes=True) if per_group > 1 else None
        if mask is None:
            return super().forward(x)
        kept = mask[:per_group].view(1, -1, 1, 1)  # all groups shrink equally
        count = kept.sum() * self.weight[0, 0].numel()
        centred = self.weight - (self.weight * kept).sum((1, 2, 3), keepdim=True) / count
        square = (centred.square() * kept).sum((1, 2, 3), keepdim=True)
        weight = self._scaled(centred, square / ((count - 1).clamp(min=1e-6) if self.unbiased else count)) * kept
        return F.conv2d(
            self._padded(x), weight.to(x.dtype), self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def _scaled(self, centred: Tensor, variance: Tensor) -> Tensor:
        """The centred weight, divided by its deviation."""
        return centred * (variance + self.eps).rsqrt()

    def _padded(self, x: Tensor) -> Tensor:
        """The input, padded as the layer does before it convolves."""
        return x


@ADAPTERS.register_module()
class StdConvAdapter(_StandardisedConv):
    """Of timm, in BiT ResNets."""

    adapts = 'timm.layers.std_conv.StdConv2d'


class _ScaledStdConv(_StandardisedConv):
    def _scaled(self, centred: Tensor, variance: Tensor) -> Tensor:
        return super()._scaled(centred, variance) * (self.gain * self.scale)


@ADAPTERS.register_module()
class ScaledStdConvAdapter(_ScaledStdConv):
    """Of timm, in networks without norms."""

    adapts = 'timm.layers.std_conv.ScaledStdConv2d'


class _SamePadding(_StandardisedConv):
    def _padded(self, x: Tensor) -> Tensor:
        # timm is there where one of its modules is; importlib, as the core names the zoos by strings alone.
        pad_same = importlib.import_module('timm.layers.padding').pad_same
        return pad_same(x, self.kernel_size, self.stride, self.dilation) if self.same_pad else x


@ADAPTERS.register_module()
class StdConvSameAdapter(_SamePadding):
    """Of timm, padded as TensorFlow does."""

    adapts = 'timm.layers.std_conv.StdConv2dSame'


@ADAPTERS.register_module()
class ScaledStdConvSameAdapter(_SamePadding, _ScaledStdConv):
    """Of timm, in networks without norms, padded as TensorFlow does."""

    adapts = 'timm.layers.std_conv.ScaledStdConv2dSame'


@ADAPTERS.register_module()
class BitConvAdapter(_StandardisedConv):
    """Of the BiT in transformers."""

    adapts = 'transformers.models.bit.modeling_bit.WeightStandardizedConv2d'

    def _padded(self, x: Tensor) -> Tensor:
        return x if self.pad is None else self.pad(x)


@ADAPTERS.register_module()
class ConvWSAdapter(_StandardisedConv):
    """mmcv's, beside group norms."""

    adapts = 'mmcv.cnn.bricks.conv_ws.ConvWS2d'
    unbiased = True

    def _scaled(self, centred: Tensor, variance: Tensor) -> Tensor:
        return centred / (variance.sqrt() + self.eps)


@ADAPTERS.register_module()
class ConvAWSAdapter(_StandardisedConv):
    """mmcv's for DetectoRS, with a scale and a shift of its own."""

    adapts = 'mmcv.cnn.bricks.conv_ws.ConvAWS2d'
    unbiased = True

    def _scaled(self, centred: Tensor, variance: Tensor) -> Tensor:
        return self.weight_gamma * centred * (variance + 1e-5).rsqrt() + self.weight_beta
