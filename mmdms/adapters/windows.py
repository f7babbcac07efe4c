"""Attention of plain and windowed transformers that have a module of their own for it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import ADAPTERS
from .attention import SelfAttention, add_window_mask, window_bias
from .base import Adapter
from .layers import Shapes
from .positions import relative_bias


@ADAPTERS.register_module()
class DaViTWindowMSAAdapter(SelfAttention):
    """DaViT: windows without positions."""

    adapts = 'mmpretrain.models.backbones.davit.DaViTWindowMSA'

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the module; x is (windows * B, N, C), mask (windows, N, N)."""
        q, k, v = self.qkv_heads(self.qkv(x))
        attention = add_window_mask((q * self.scale) @ k.transpose(-2, -1), mask)
        attention = self.attn_drop(self.softmax(attention))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).flatten(2)))


@ADAPTERS.register_module()
class DaViTDownSampleAdapter(Adapter):
    """DaViT, between stages: the module would pad an odd number of channels, as if they were columns of a map."""

    adapts = 'mmpretrain.models.backbones.davit.DaViTDownSample'

    def forward(self, x: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """As the module; x is (B, H * W, C)."""
        maps = self.projection(self.norm(x).transpose(1, 2).unflatten(2, input_size))
        return maps.flatten(2).transpose(1, 2), (maps.size(2), maps.size(3))


@ADAPTERS.register_module()
class MixMIMAttentionAdapter(SelfAttention):
    """MixMIM: as Swin; tokens of two mixed images see those of their own only."""

    adapts = 'mmpretrain.models.backbones.mixmim.MixMIMWindowAttention'

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the module; x is (windows * B, N, C), mask (windows * B, N, 1) of the image of every token."""
        q, k, v = self.qkv_heads(self.qkv(x))
        attention = (q * self.scale) @ k.transpose(-2, -1)
        attention = attention + window_bias(self.relative_position_bias_table, self.relative_position_index)
        if mask is not None:
            mask = mask.reshape(len(x), 1, 1, -1)
            other, mask_t = 1 - mask, mask.transpose(2, 3)
            apart = 1 - (mask * mask_t + other * (1 - mask_t))
            attention = attention - (65500 if apart.dtype == torch.float16 else 1e30) * apart
        attention = self.attn_drop(self.softmax(attention))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).flatten(2)))


@ADAPTERS.register_module()
class HiViTAttentionAdapter(SelfAttention):
    """HiViT and iTPN."""

    adapts = 'mmpretrain.models.backbones.hivit.Attention'

    def forward(self, x: Tensor, rpe_index: object = None, mask: Tensor | None = None) -> Tensor:
        """As the module; x is (B, N, C), mask (B, N) of tokens to see; ``rpe_index`` switches positions on."""
        q, k, v = self.qkv_heads(self.qkv(x))
        attention = (q * self.scale) @ k.transpose(-2, -1)
        if rpe_index is not None:
            attention = attention + window_bias(self.relative_position_bias_table, self.relative_position_index)
        if mask is not None:
            attention = attention.masked_fill(~mask.bool()[:, None, None], float('-inf'))
        attention = self.attn_drop(self.softmax(attention))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).flatten(2)))


@ADAPTERS.register_module()
class SAMAttentionAdapter(SelfAttention):
    """The image encoder of SAM: positions by row and by column, from the queries."""

    adapts = 'mmpretrain.models.backbones.vit_sam.Attention'

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, H, W, C)."""
        shape = (x.size(1), x.size(2))
        q, k, v = self.qkv_parts(self.qkv(x).flatten(1, 2))
        masked, k = self._mmdms.contract('query', q, k)
        attention = (masked * self.scale) @ k.transpose(-2, -1)
        if self.use_rel_pos:
            attention = attention + relative_bias(self, q, self.rel_pos_h, self.rel_pos_w, shape, shape)
        out = (attention.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        return self.proj(out.unflatten(1, shape))


@ADAPTERS.register_module()
class SAMAdapter(Adapter):
    """The image encoder of SAM views its embeddings by their width."""

    adapts = 'mmpretrain.models.backbones.vit_sam.ViTSAM'

    def resized(self, old: Shapes) -> None:
        """The width follows the layer that embeds patches."""
        self.embed_dims = self.patch_embed.projection.out_channels
