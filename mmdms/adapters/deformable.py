"""mmcv's deformable convolutions, which are compiled operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes
from .unseen import convolved, fixed, untraced

VERSIONS = ('DeformConv2d', 'ModulatedDeformConv2d')


class DeformableConv(Adapter):
    """Channels in and out follow the weight. Offsets, which the module may be given or compute, stay.

    Several groups of channels or of offsets stay as they are.
    """

    def forward(self, x: Tensor, *offsets: Any) -> Tensor:
        """As the layer; x is (B, C, H, W), offsets and their weights (B, n, H, W)."""
        if not self.groups == self.deform_groups == 1:
            return super().forward(x, *offsets)
        offsets = offsets or self.own_offsets(x)
        offsets = tuple(fixed(offset, 1, reason='moves the samples of a deformable convolution') for offset in offsets)
        with untraced():
            out = self.plain().forward(self, x, *offsets)
        return convolved(out, x, 'deformable convolution')

    def own_offsets(self, x: Tensor) -> tuple[Tensor, ...]:
        """Offsets that the layer computes, and weights in the second version."""
        found = self.conv_offset(x)
        if self.plain().__name__ == 'DeformConv2d':
            return (found,)
        points = found.size(1) // 3
        return found[:, : 2 * points], found[:, 2 * points :].sigmoid()

    def plain(self) -> Any:
        """The class of the layer that is given its offsets."""
        return next(kind for kind in type(self).__mro__ if kind.__name__ in VERSIONS and not issubclass(kind, Adapter))

    def resized(self, old: Shapes) -> None:
        """Channels follow the weight."""
        if 'weight' in old:
            self.out_channels, self.in_channels = self.weight.shape[:2]


@ADAPTERS.register_module()
class DeformConv2dAdapter(DeformableConv):
    """The first version."""

    adapts = 'mmcv.ops.deform_conv.DeformConv2d'


@ADAPTERS.register_module()
class DeformConv2dPackAdapter(DeformableConv):
    """The first version, with offsets of its own."""

    adapts = 'mmcv.ops.deform_conv.DeformConv2dPack'


@ADAPTERS.register_module()
class ModulatedDeformConv2dAdapter(DeformableConv):
    """The second version, in which samples are weighted."""

    adapts = 'mmcv.ops.modulated_deform_conv.ModulatedDeformConv2d'


@ADAPTERS.register_module()
class ModulatedDeformConv2dPackAdapter(DeformableConv):
    """The second version, with offsets and weights of its own."""

    adapts = 'mmcv.ops.modulated_deform_conv.ModulatedDeformConv2dPack'
