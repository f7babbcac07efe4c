"""Convolutional blocks that keep their widths in attributes."""

from __future__ import annotations

from torch import Tensor

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
class MMDetBottle2neckAdapter(Bottle2neckAdapter):
    """The same block, as mmdet has it."""

    adapts = 'mmdet.models.backbones.res2net.Bottle2neck'


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


@ADAPTERS.register_module()
class AlexNetAdapter(Adapter):
    """AlexNet, whose classifier reads a number of features that is written into its forward."""

    adapts = 'mmpretrain.models.backbones.alexnet.AlexNet'

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """As the module; x is (B, 3, 224, 224)."""
        x = self.features(x)
        return (self.classifier(x.flatten(1)) if self.num_classes > 0 else x,)


@ADAPTERS.register_module()
class LeNet5Adapter(Adapter):
    """LeNet, which drops every dimension of size 1 before its classifier: that may be all."""

    adapts = 'mmpretrain.models.backbones.lenet.LeNet5'

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """As the module, which drops the dimension of a batch of one; x is (B, 1, 32, 32)."""
        x = self.features(x)
        return (self.classifier(x.flatten(1).squeeze(0)) if self.num_classes > 0 else x,)
