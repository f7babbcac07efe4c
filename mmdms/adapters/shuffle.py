"""ShuffleNets: channels of several groups are dealt out in turn.

Dealt out in turn, groups would have to shrink alike, and so would the groups of
every layer behind: hardly anything could be searched. These adapters take
channels in a fixed order instead, which a slice keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes


class Shuffling(Adapter):
    """What both versions share.

    Sets ``places``: for every channel that is shuffled, in the order in which it is made, its place in
    the shuffled order of the supernet.
    """

    def deal(self, channels: int, groups: int) -> None:
        """Note where channel ``i`` of group ``g`` goes: behind channel ``i`` of the groups before it."""
        width = channels // groups
        self.places = [(channel % width) * groups + channel // width for channel in range(channels)]
        self.sort()

    def sort(self) -> None:
        """Find the channel of every place that is left."""
        self._order = torch.tensor(self.places).argsort()

    def shuffled(self, x: Tensor) -> Tensor:
        """Channels of x (B, C, H, W) in their new order."""
        self._mmdms.listed('places', x, 1)
        if self._order.device != x.device:
            self._order = self._order.to(x.device)
        return x.index_select(1, self._order)

    def resized(self, old: Shapes) -> None:
        """The order is that of the places that are left."""
        self.sort()

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, C, H, W)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self.run, x, use_reentrant=False)
        return self.run(x)


@ADAPTERS.register_module()
class ShuffleUnitAdapter(Shuffling):
    """ShuffleNet V1: channels are shuffled between two grouped convolutions."""

    adapts = 'mmpretrain.models.backbones.shufflenet_v1.ShuffleUnit'

    def setup(self) -> None:
        """Deal out the channels of the bottleneck."""
        self.deal(self.bottleneck_channels, self.groups)

    def run(self, x: Tensor) -> Tensor:
        """The forward itself."""
        out = self.depthwise_conv3x3_bn(self.g_conv_1x1_compress(x))
        out = self.g_conv_1x1_expand(self.shuffled(out) if self.groups > 1 else out)
        if self.combine == 'concat':
            return torch.cat([self.avgpool(x), self.act(out)], dim=1)
        return self.act(x + out)


@ADAPTERS.register_module()
class ShuffleNetV2BlockAdapter(Shuffling):
    """ShuffleNet V2: one half of the channels passes, the other is worked upon, and both are shuffled."""

    adapts = 'mmpretrain.models.backbones.shufflenet_v2.InvertedResidual'

    def setup(self) -> None:
        """Deal out both halves, and count the channels that pass."""
        self.passing = self.branch2[-1].conv.out_channels
        self.deal(2 * self.passing, 2)

    def run(self, x: Tensor) -> Tensor:
        """The forward itself."""
        if self.stride > 1:
            first, second = self.branch1(x), x
        else:
            first, second = x.split([self.passing, x.size(1) - self.passing], dim=1)
            self._mmdms.sized('passing', first, 1)
        return self.shuffled(torch.cat([first, self.branch2(second)], dim=1))
