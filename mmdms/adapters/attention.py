"""Multi-head attention of mmpretrain: heads, the width of queries and keys, and that of values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


class SelfAttention(Adapter):
    """What modules with one joint ``qkv`` layer and a ``proj`` share.

    Sets ``qk_dims`` and ``v_dims``, the width of a head, which shrink apart.
    """

    def setup(self) -> None:
        """Widths of a head, and the scale, which stays that of the supernet."""
        layer: Any = getattr(self.qkv, 'original_layer', self.qkv)  # LoRA wraps it
        width = layer.out_features // 3 // self.num_heads
        self.qk_dims, self.v_dims = width, width
        if not hasattr(self, 'scale'):
            self.scale = width**-0.5

    def qkv_parts(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, N, width), of the output (B, N, channels) of ``qkv``."""
        query, value = self.num_heads * self.qk_dims, self.num_heads * self.v_dims
        q, k, v = qkv.split([query, query, value], dim=-1)
        q, k = (self._mmdms.split_heads(part, width='qk_dims').transpose(1, 2) for part in (q, k))
        return q, k, self._mmdms.split_heads(v, width='v_dims').transpose(1, 2)

    def qkv_heads(self, qkv: Tensor, normalised: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`qkv_parts`, ready for the product of queries and keys.

        Args:
            normalised: whether the caller normalises queries and keys before it multiplies them.
        """
        q, k, v = self.qkv_parts(qkv)
        q, k = self._mmdms.contract('query', q, k, both=normalised)
        return q, k, v


@ADAPTERS.register_module()
class MultiheadAttentionAdapter(SelfAttention):
    """mmpretrain's ``MultiheadAttention``: ViT, DeiT, T2T and others."""

    adapts = 'mmpretrain.models.utils.attention.MultiheadAttention'

    def setup(self) -> None:
        """As of others; a module with a scale of its own (T2T) divides by it, and multiplies step by step."""
        own = getattr(self.scaled_dot_product_attention, 'keywords', {}).get('scale')
        self.stepwise = own is not None
        if own is not None:
            self.scale = 1 / own
        super().setup()

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C)."""
        q, k, v = self.qkv_heads(self.qkv(x))
        dropout = self.attn_drop if self.training else 0.0
        if not self.stepwise:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        else:
            mixed = F.dropout((q @ k.transpose(-2, -1) * self.scale).softmax(-1), dropout) @ v
        out = self.proj(mixed.transpose(1, 2).flatten(2))
        out = self.out_drop(self.gamma1(self.proj_drop(out)))
        return v.squeeze(1) + out if self.v_shortcut else out


@ADAPTERS.register_module()
class WindowMSAAdapter(SelfAttention):
    """Attention in a window with a table of relative positions: Swin."""

    adapts = 'mmpretrain.models.utils.attention.WindowMSA'

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the module; x is (windows * B, N, C), mask (windows, N, N)."""
        q, k, v = self.qkv_heads(self.qkv(x))
        attention = (q * self.scale) @ k.transpose(-2, -1)
        attention = attention + window_bias(self.relative_position_bias_table, self.relative_position_index)
        attention = self.attn_drop(self.softmax(add_window_mask(attention, mask)))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).flatten(2)))


@ADAPTERS.register_module()
class WindowMSAV2Adapter(SelfAttention):
    """Cosine attention in a window with positions from a small network: Swin V2."""

    adapts = 'mmpretrain.models.utils.attention.WindowMSAV2'

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the module; x is (windows * B, N, C), mask (windows, N, N)."""
        bias = None
        if self.q_bias is not None:
            bias = torch.cat([self.q_bias, 0 * self.q_bias, self.v_bias])
        q, k, v = self.qkv_heads(F.linear(x, self.qkv.weight, bias), normalised=True)
        attention = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        attention = attention * self.logit_scale.clamp(max=4.605170185988092).exp()  # log(1 / 0.01)
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
        attention = attention + 16 * torch.sigmoid(window_bias(table, self.relative_position_index))
        attention = self.attn_drop(self.softmax(add_window_mask(attention, mask)))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).flatten(2)))


@ADAPTERS.register_module()
class BEiTAttentionAdapter(SelfAttention):
    """Attention with a class token among the relative positions: BEiT, BEiT V2, EVA."""

    adapts = 'mmpretrain.models.utils.attention.BEiTAttention'

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        """As the module; x is (B, N, C), rel_pos_bias (heads, N, N)."""
        if self.bias == 'qv_bias':
            qkv = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, 0 * self.q_bias, self.v_bias]))
        else:
            qkv = self.qkv(x)
        q, k, v = self.qkv_heads(qkv)
        attention = (q * self.scale) @ k.transpose(-2, -1)
        if self.relative_position_bias_table is not None:
            attention = attention + window_bias(self.relative_position_bias_table, self.relative_position_index)
        if rel_pos_bias is not None:
            attention = attention + rel_pos_bias
        attention = self.attn_drop(attention.softmax(dim=-1))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).flatten(2)))


def window_bias(table: Tensor, index: Tensor) -> Tensor:
    """Bias (1, heads, N, N) from a table (positions, heads) and the position of every pair (N, N)."""
    return table[index].permute(2, 0, 1)[None]


def add_window_mask(attention: Tensor, mask: Tensor | None) -> Tensor:
    """Add a mask (windows, N, N) to attention (windows * B, heads, N, N)."""
    if mask is None:
        return attention
    return (attention.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
