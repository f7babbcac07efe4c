"""Convolutional blocks that keep their widths in attributes."""

from __future__ import annotations

from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes


@ADAPTERS.register_module()
class Bottle2neckAdapter(Adapter):
    """Res2Net: its forward splits by ``width``; all scales are of one width."""

    adapts = 'mmpretrain.models.backbones.res2net.Bottle2neck'

    def resized(self, old: Shapes) -> None:
        """The width of a scale follows its convolution."""
        self.width = self.convs[0].in_channels


@ADAPTERS.register_module()
class RepVGGBlockAdapter(Adapter):
    """RepVGG: parallel branches, in whose stead one convolution is built when it is deployed."""

    adapts = 'mmpretrain.models.backbones.repvgg.RepVGGBlock'

    def resized(self, old: Shapes) -> None:
        """The sizes of that convolution are those of a branch."""
        conv = self.branch_reparam if self.deploy else self.branch_3x3.conv
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups


@ADAPTERS.register_module()
class MobileOneBlockAdapter(Adapter):
    """MobileOne: see :class:`RepVGGBlockAdapter`."""

    adapts = 'mmpretrain.models.backbones.mobileone.MobileOneBlock'

    def resized(self, old: Shapes) -> None:
        """Sizes are those of a branch."""
        conv = self.branch_reparam if self.deploy else self.branch_conv_list[0].conv
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups


@ADAPTERS.register_module()
class RIFormerBlockAdapter(Adapter):
    """RIFormer, which builds another norm when it is deployed."""

    adapts = 'mmpretrain.models.backbones.riformer.RIFormerBlock'

    def resized(self, old: Shapes) -> None:
        """The width of that norm follows the one behind it."""
        self.dim = self.norm2.num_channels
