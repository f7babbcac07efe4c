"""Blocks and heads of mmyolo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..registry import ADAPTERS
from ..tracing.statements import keeps_identity, rehearse
from .base import Adapter
from .layers import Shapes


@ADAPTERS.register_module()
class CSPLayerWithTwoConvAdapter(Adapter):
    """YOLOv8's stage, which splits channels in two halves: one passes, the other goes through the blocks.

    ``mid_channels`` becomes the size of the half that passes; the other has the rest.
    """

    adapts = 'mmyolo.models.layers.yolo_bricks.CSPLayerWithTwoConv'

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, C, H, W)."""
        x = self.main_conv(x)
        passing, worked = x.split([self.mid_channels, x.size(1) - self.mid_channels], dim=1)
        self._mmdms.sized('mid_channels', passing, 1)
        parts = [passing, worked]
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.final_conv(torch.cat(parts, dim=1))


@ADAPTERS.register_module()
class YOLORepVGGBlockAdapter(Adapter):
    """Parallel branches, in whose stead one convolution is built when the network is deployed.

    A block with a norm of its input among its branches can be removed, unless it is part of one that can.
    """

    adapts = 'mmyolo.models.layers.yolo_bricks.RepVGGBlock'
    only_masked = True
    fused = ('rbr_dense.bn', 'rbr_1x1', 'rbr_identity')  # mmyolo counts FLOPs of the deployed network
    is_part = False

    def forward(self, inputs: Tensor) -> Tensor:
        """As the module; inputs is (B, C, H, W)."""
        out: Tensor = super().forward(inputs)
        removable = getattr(self, 'rbr_identity', None) is not None and not self.is_part
        return keeps_identity(out, inputs) if removable else out

    def resized(self, old: Shapes) -> None:
        """The sizes of that convolution are those of a branch."""
        conv = self.rbr_reparam if hasattr(self, 'rbr_reparam') else self.rbr_dense.conv
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups


@ADAPTERS.register_module()
class BottleRepAdapter(Adapter):
    """YOLOv6's bottleneck, which scales its identity by a learnt factor; it goes or stays as a whole."""

    adapts = 'mmyolo.models.layers.yolo_bricks.BottleRep'
    only_masked = True

    def setup(self) -> None:
        """State that its convolutions are parts of it."""
        if self.shortcut:
            self.conv1.is_part = self.conv2.is_part = True

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, C, H, W)."""
        out: Tensor = super().forward(x)
        return keeps_identity(out, x) if self.shortcut else out


@ADAPTERS.register_module()
class YOLOv7p6HeadModuleAdapter(Adapter):
    """YOLOv7's head for four levels, with auxiliary branches in training."""

    adapts = 'mmyolo.models.dense_heads.yolov7_head.YOLOv7p6HeadModule'
    only_masked = True

    def forward(self, x: tuple[Tensor, ...]) -> Any:
        """As the module; x holds a map (B, C, H, W) per level."""
        if self.use_aux:
            rehearse(lambda: [branch(level) for branch, level in zip(self.aux_convs_pred, x, strict=True)])
        return super().forward(x)
