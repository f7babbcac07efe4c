"""TNT."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class PixelEmbedAdapter(Adapter):
    """The parts of every patch of TNT, whose width the module holds."""

    adapts = 'mmpretrain.models.backbones.tnt.PixelEmbed'

    def forward(self, x: Tensor, pixel_pos: Tensor) -> Tensor:
        """As the module; x is (B, 3, H, W), pixel_pos (1, C, h, w) of one patch."""
        patches = self.unfold(self.proj(x)).transpose(1, 2).flatten(0, 1)
        parts = patches.unflatten(1, (-1, *self.new_patch_size))
        self._mmdms.sized('embed_dims_inner', parts, 1)
        return (parts + pixel_pos).flatten(2).transpose(1, 2)


@ADAPTERS.register_module()
class TnTLayerAdapter(Adapter):
    """A layer of TNT, which writes into a part of its input; it hands on parts of patches and patches."""

    adapts = 'mmpretrain.models.backbones.tnt.TnTLayer'
    streams = 2

    def forward(self, pixel_embed: Tensor, patch_embed: Tensor) -> tuple[Tensor, Tensor]:
        """As the module; pixel_embed is (B * patches, parts, c), patch_embed (B, 1 + patches, C)."""
        pixel_embed = self.inner_block(pixel_embed)
        parts = self.norm_proj(pixel_embed).reshape(len(patch_embed), patch_embed.size(1) - 1, -1)
        patch_embed = patch_embed + F.pad(self.projection(parts), (0, 0, 1, 0))  # nothing for the class token
        return pixel_embed, self.outer_block(patch_embed)
