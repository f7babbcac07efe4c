"""TNT, and mmcv's attention, with which it is built."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .attention import SelfAttention
from .base import Adapter


@ADAPTERS.register_module()
class MMCVAttentionAdapter(SelfAttention):
    """mmcv's ``MultiheadAttention`` around PyTorch's, where it attends to its own input."""

    adapts = 'mmcv.cnn.bricks.transformer.MultiheadAttention'

    def setup(self) -> None:
        """Widths of a head, and the scale, which stays that of the supernet."""
        width = self.embed_dims // self.num_heads
        self.qk_dims, self.v_dims, self.scale = width, width, width**-0.5

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """As the module; query is (B, N, C), or (N, B, C)."""
        inner = self.attn
        others = [key, value, inner.bias_k, *args, *kwargs.values()]
        if any(other is not None for other in others) or inner.in_proj_weight is None or inner.add_zero_attn:
            return super().forward(query, key, value, identity, *args, **kwargs)
        x = query if self.batch_first else query.transpose(0, 1)
        q, k, v = self.qkv_heads(F.linear(x, inner.in_proj_weight, inner.in_proj_bias))
        dropout = inner.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        out = inner.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        return (query if identity is None else identity) + self.dropout_layer(self.proj_drop(out))


@ADAPTERS.register_module()
class PixelEmbedAdapter(Adapter):
    """The parts of every patch of TNT, whose width the module holds."""

    adapts = 'mmpretrain.models.backbones.tnt.PixelEmbed'

    def forward(self, x: Tensor, pixel_pos: Tensor) -> Tensor:
        """As the module; x is (B, 3, H, W), pixel_pos (1, C, h, w) of one patch."""
        patches = self.unfold(self.proj(x)).transpose(1, 2).flatten(0, 1)
        parts = patches.unflatten(1, (-1, *self.new_patch_size))
        self.sized('embed_dims_inner', parts, 1)
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
