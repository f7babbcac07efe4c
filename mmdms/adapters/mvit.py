"""MViT: queries, keys and values are pooled, in every head alike."""

from __future__ import annotations

from torch import Tensor, nn

from ..registry import ADAPTERS
from .attention import SelfAttention
from .base import Adapter
from .positions import relative_bias


@ADAPTERS.register_module()
class MultiScaleAttentionAdapter(SelfAttention):
    """Attention of MViT V2; with a residual connection from queries all widths are one."""

    adapts = 'mmpretrain.models.backbones.mvit.MultiScaleAttention'

    def forward(self, x: Tensor, in_size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """As the module; x is (B, H * W, C)."""
        q, k, v = self.qkv_parts(self.qkv(x))
        q, q_shape = pooled(q, in_size, self.pool_q, self.norm_q)
        k, k_shape = pooled(k, in_size, self.pool_k, self.norm_k)
        v, _ = pooled(v, in_size, self.pool_v, self.norm_v)
        masked, k = self._mmdms.contract('query', q, k)
        attention = (masked * self.scale) @ k.transpose(-2, -1)
        if self.rel_pos_spatial:
            attention = attention + relative_bias(self, q, self.rel_pos_h, self.rel_pos_w, q_shape, k_shape)
        out = attention.softmax(dim=-1) @ v
        if self.residual_pooling:
            out = out + q
        return self.proj(out.transpose(1, 2).flatten(2)), q_shape


def pooled(x: Tensor, shape: tuple[int, int], pool: nn.Module, norm: nn.Module) -> tuple[Tensor, tuple[int, int]]:
    """Tokens (B, heads, H * W, width) as a map per head, pooled and normalised, and the new shape of the map."""
    maps = pool(x.flatten(0, 1).transpose(1, 2).unflatten(2, shape))
    tokens = maps.flatten(2).transpose(1, 2).unflatten(0, (len(x), -1))
    return norm(tokens), tuple(maps.shape[-2:])


@ADAPTERS.register_module()
class MultiScaleBlockAdapter(Adapter):
    """A block of MViT hands on tokens and the shape of their map."""

    adapts = 'mmpretrain.models.backbones.mvit.MultiScaleBlock'
    streams = 2
