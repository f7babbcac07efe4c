"""Twins: attention in windows of a padded map, and attention to a subsampled one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .attention import SelfAttention, add_window_mask
from .base import Adapter


@ADAPTERS.register_module()
class GlobalSubsampledAttentionAdapter(Adapter):
    """Twins: keys and values come from a smaller map.

    Sets ``qk_dims`` and ``v_dims`` as :class:`~mmdms.adapters.attention.SelfAttention` does.
    """

    adapts = 'mmpretrain.models.backbones.twins.GlobalSubsampledAttention'

    def setup(self) -> None:
        """Widths of a head, and the scale: see :class:`~mmdms.adapters.attention.MultiheadAttentionAdapter`."""
        width = self.q.out_features // self.num_heads
        self.qk_dims, self.v_dims = width, width
        own = getattr(self.scaled_dot_product_attention, 'keywords', {}).get('scale')
        self.scale = width**-0.5 if own is None else 1 / own

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """As the module; x is (B, H * W, C)."""
        q = self._mmdms.split_heads(self.q(x), width='qk_dims').transpose(1, 2)
        if self.sr_ratio > 1:
            x = self.sr(x.transpose(1, 2).unflatten(2, hw_shape))
            x = self.norm(x.flatten(2).transpose(1, 2))
        k, v = self.kv(x).split([self.num_heads * self.qk_dims, self.num_heads * self.v_dims], dim=-1)
        k = self._mmdms.split_heads(k, width='qk_dims').transpose(1, 2)
        v = self._mmdms.split_heads(v, width='v_dims').transpose(1, 2)
        q, k = self._mmdms.contract('query', q, k)
        dropout = self.attn_drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        out = self.out_drop(self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2))))
        return v.squeeze(1) + out if self.v_shortcut else out


@ADAPTERS.register_module()
class LocallyGroupedSelfAttentionAdapter(SelfAttention):
    """Twins-SVT: windows of a padded map."""

    adapts = 'mmpretrain.models.backbones.twins.LocallyGroupedSelfAttention'

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """As the module; x is (B, H * W, C)."""
        (height, width), side = hw_shape, self.window_size
        right, bottom = -width % side, -height % side
        padded = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, right, 0, bottom))
        q, k, v = self.qkv_heads(self.qkv(_windows(padded, side)))
        mask = None
        if right and bottom:  # the module masks the padding only where it pads both ways
            outside = F.pad(x.new_zeros(1, height, width, 1), (0, 0, 0, right, 0, bottom), value=1.0)
            outside = _windows(outside, side).squeeze(-1)
            mask = -1000.0 * (outside[:, None] != outside[:, :, None]).to(x.dtype)
        attention = add_window_mask((q @ k.transpose(-2, -1)) * self.scale, mask)
        out = (self.attn_drop(attention.softmax(dim=-1)) @ v).transpose(1, 2).flatten(2)
        rows, columns = padded.size(1) // side, padded.size(2) // side
        out = out.unflatten(0, (-1, rows, columns)).unflatten(3, (side, side)).transpose(2, 3)
        out = out.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)
        return self.proj_drop(self.proj(out))


def _windows(x: Tensor, side: int) -> Tensor:
    """Windows (B * windows, side * side, C) of a map (B, H, W, C)."""
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (B, rows, side, columns, side, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)
