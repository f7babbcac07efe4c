"""Layers of mmdet's and mmcv's necks and backbones whose Python holds sizes, or that mix channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .attention import WindowMSAAdapter
from .base import Adapter
from .layers import Shapes
from .swin import SwinAdapter, SwinBlocks


@ADAPTERS.register_module()
class L2NormAdapter(Adapter):
    """The norm of SSD: the length of a pixel is that of the channels that stay."""

    adapts = 'mmdet.models.necks.ssd_neck.L2Norm'
    only_masked = True

    def forward(self, x: Tensor) -> Tensor:
        """As the layer; x is (B, C, H, W)."""
        precise = x.float() if x.dtype == torch.float16 else x
        mask = self._mmdms.follow('channels', precise, 1)
        square = (
            self._mmdms.hide(precise, 1).square()
            if mask is None
            else precise.square() * mask.to(x.dtype).view(-1, 1, 1)
        )
        length = square.sum(1, keepdim=True).sqrt() + self.eps
        return (self.weight.view(-1, 1, 1) * precise / length).type_as(x)

    def resized(self, old: Shapes) -> None:
        """The number of channels follows the scale."""
        self.n_dims = self.weight.numel()


@ADAPTERS.register_module()
class DyReLUAdapter(Adapter):
    """The activation of DyHead, whose four coefficients per channel its forward divides by their number."""

    adapts = 'mmdet.models.layers.se_layer.DyReLU'

    def resized(self, old: Shapes) -> None:
        """The number of channels follows the layer that makes the coefficients."""
        self.channels = self.conv2.out_channels // 4


@ADAPTERS.register_module()
class DIIHeadAdapter(Adapter):
    """A stage of Sparse R-CNN: queries are reshaped to their width."""

    adapts = 'mmdet.models.roi_heads.bbox_heads.dii_head.DIIHead'

    def resized(self, old: Shapes) -> None:
        """The width of queries follows the layer that makes weights of them."""
        self.in_channels = self.instance_interactive_conv.dynamic_layer.in_features


@ADAPTERS.register_module()
class DynamicMaskHeadAdapter(DIIHeadAdapter):
    """The mask of a stage of QueryInst: as for its boxes."""

    adapts = 'mmdet.models.roi_heads.mask_heads.dynamic_mask_head.DynamicMaskHead'


@ADAPTERS.register_module()
class NonLocalAdapter(Adapter):
    """Pixels that attend to each other: what is compared and what is handed on are of widths of their own."""

    adapts = 'mmcv.cnn.bricks.non_local._NonLocalNd'

    def setup(self) -> None:
        """The scale, which stays that of the supernet."""
        self.scale = self.inter_channels**-0.5 if self.use_scale else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, C, ...)."""
        if self.mode not in ('embedded_gaussian', 'dot_product'):
            return super().forward(x)
        values = self.g(x).flatten(2).transpose(1, 2)
        theta, phi = (layer(x).flatten(2).transpose(1, 2) for layer in (self.theta, self.phi))
        theta, phi = self._mmdms.contract('theta', theta, phi)
        weights = theta @ phi.transpose(1, 2)
        if self.mode == 'dot_product':
            weights = weights / weights.size(-1)
        else:
            weights = (weights * self.scale).softmax(-1)
        mixed = (weights @ values).transpose(1, 2).unflatten(2, tuple(x.shape[2:]))
        return x + self.conv_out(mixed)


@ADAPTERS.register_module()
class AbsolutePositionAdapter(Adapter):
    """PVT adds a vector per position, resized to the map that it meets."""

    adapts = 'mmdet.models.backbones.pvt.AbsolutePositionEmbedding'

    def forward(self, x: Tensor, hw_shape: tuple[int, int], mode: str = 'bilinear') -> Tensor:
        """As the module; x is (B, H * W, C)."""
        maps = self.pos_embed.unflatten(1, tuple(self.pos_shape)).permute(0, 3, 1, 2)
        return self.drop(x + F.interpolate(maps, size=hw_shape, mode=mode).flatten(2).transpose(1, 2))

    def resized(self, old: Shapes) -> None:
        """The width follows the vectors."""
        self.pos_dim = self.pos_embed.size(2)


@ADAPTERS.register_module()
class MMDetWindowMSAAdapter(WindowMSAAdapter):
    """Swin of mmdet: as mmpretrain's."""

    adapts = 'mmdet.models.backbones.swin.WindowMSA'


@ADAPTERS.register_module()
class MMDetSwinAdapter(SwinAdapter):
    """Swin of mmdet: as mmpretrain's."""

    adapts = 'mmdet.models.backbones.swin.SwinTransformer'


@ADAPTERS.register_module()
class MMDetSwinBlocks(SwinBlocks):
    """A stage of it."""

    adapts = 'mmdet.models.backbones.swin.SwinBlockSequence'
