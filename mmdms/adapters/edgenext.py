"""EdgeNeXt: a block that divides its channels among scales."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class SDTAEncoderAdapter(Adapter):
    """All scales but the last are summed up one after the other, so that they shrink alike; the last has the rest."""

    adapts = 'mmpretrain.models.backbones.edgenext.SDTAEncoder'

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, C, H, W)."""
        scales = x.split([*[self.conv_channels] * self.num_convs, x.size(1) - self.num_convs * self.conv_channels], 1)
        self._mmdms.sized('conv_channels', scales[0], 1)
        mixed: list[Tensor] = []
        for conv, scale in zip(self.conv_modules, scales[:-1], strict=True):
            mixed.append(conv(mixed[-1] + scale if mixed else scale))
        tokens = torch.cat([*mixed, scales[-1]], dim=1).flatten(2).transpose(1, 2)
        if self.pos_embed:
            tokens = tokens + self.pos_embed((len(x), *x.shape[2:])).flatten(2).transpose(1, 2)
        tokens = tokens + self.drop_path(self.gamma_csa * self.csa(self.norm_csa(tokens)))
        out = self.norm(tokens.unflatten(1, x.shape[2:]))
        out = self.pointwise_conv2(self.act(self.pointwise_conv1(out)))
        out = out if self.gamma is None else self.gamma * out
        return x + self.drop_path(out.permute(0, 3, 1, 2))
