"""Attention between channels instead of tokens: XCiT, EdgeNeXt, DaViT.

A softmax over channels is taken over those that stay: with masks ``m``, that of
``logits + log(m)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


def masked_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last dimension of ``logits`` (..., C) under a mask (C,)."""
    if mask is not None:
        tiny = torch.finfo(mask.dtype).tiny
        bias = torch.where(mask > 0, mask.clamp_min(tiny).log(), float('-inf'))
        logits = logits + bias.to(logits.dtype)
    return logits.softmax(dim=-1)


class ChannelAttention(Adapter):
    """What these modules share: one ``qkv`` layer and a ``proj``.

    One of queries, keys and values gives the rows of the attention matrix, whose
    channels go out; the other two are tied to its columns, over which the softmax is
    taken. Sets ``row_dims`` and ``column_dims``, the width of a head in either.
    """

    rows_first: bool = True  # whether the rows come first in ``qkv``, or between both others

    def setup(self) -> None:
        """Widths of a head."""
        width = self.qkv.out_features // 3 // self.num_heads
        self.row_dims, self.column_dims = width, width

    def channel_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts of ``qkv`` in their order, each (B, heads, width, N), of x (B, N, C)."""
        widths = ['column_dims'] * 3
        widths[0 if self.rows_first else 1] = 'row_dims'
        parts = self.qkv(x).split([self.num_heads * getattr(self, width) for width in widths], dim=-1)
        heads = [self._mmdms.split_heads(part, width=width) for part, width in zip(parts, widths, strict=True)]
        first, second, third = (part.permute(0, 2, 3, 1) for part in heads)
        return first, second, third

    def mixed(self, rows: Tensor, columns: Tensor, values: Tensor, scale: Tensor | float) -> Tensor:
        """Values (B, heads, columns, N), as mixed for every row, as (B, N, heads * rows)."""
        mask = self._mmdms.follow('columns', columns, -2, removes=True)
        columns, values = self._mmdms.hide(columns, -2), self._mmdms.hide(values, -2)
        attention = masked_softmax((rows @ columns.transpose(-2, -1)) * scale, mask)
        return (self.dropped(attention) @ values).permute(0, 3, 1, 2).flatten(2)

    def dropped(self, attention: Tensor) -> Tensor:
        """The attention matrix, after the dropout of a module that has one there."""
        return attention


@ADAPTERS.register_module()
class XCAAdapter(ChannelAttention):
    """XCiT: the channels of normalised queries attend to those of keys."""

    adapts = 'mmpretrain.models.backbones.xcit.XCA'

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C)."""
        q, k, v = self.channel_heads(x)
        out = self.mixed(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, self.temperature)
        return self.proj_drop(self.proj(out))

    def dropped(self, attention: Tensor) -> Tensor:
        """Dropout."""
        return self.attn_drop(attention)


@ADAPTERS.register_module()
class ChannelMultiheadAttentionAdapter(ChannelAttention):
    """EdgeNeXt: as XCiT, without dropout of the attention."""

    adapts = 'mmpretrain.models.utils.attention.ChannelMultiheadAttention'

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C)."""
        q, k, v = self.channel_heads(x)
        out = self.mixed(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, self.scale)
        out = self.out_drop(self.proj_drop(self.proj(out)))
        return v.transpose(-2, -1).squeeze(1) + out if self.v_shortcut else out


@ADAPTERS.register_module()
class DaViTChannelAttentionAdapter(ChannelAttention):
    """DaViT: the channels of keys attend to those of values, and mix queries."""

    adapts = 'mmpretrain.models.backbones.davit.ChannelAttention'
    rows_first = False

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C)."""
        q, k, v = self.channel_heads(x)
        return self.proj(self.mixed(k * self.scale, v, q, 1.0))
