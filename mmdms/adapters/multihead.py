"""PyTorch's ``nn.MultiheadAttention``, in mmcv's transformers and wherever else it stands."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes


class HeadMasks(Adapter):
    """What modules share that add masks to attention."""

    def add_mask(self, attention: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        """Logits (B, heads, queries, keys) under masks, of which a true entry, or a number added, hides a key.

        Args:
            attention: the logits.
            mask: (queries, keys), or (B * heads of the supernet, queries, keys).
            padding: (B, keys).
        """
        if mask is not None:
            if mask.dim() == 3:
                self._mmdms.listed('places', attention, 1)
                mask = self._mmdms.carry(mask.unflatten(0, (len(attention), -1))[:, self.places], attention, 1)
            attention = _hidden(attention, mask)
        return attention if padding is None else _hidden(attention, padding[:, None, None])


def _hidden(attention: Tensor, mask: Tensor) -> Tensor:
    return attention + mask if mask.is_floating_point() else attention.masked_fill(mask.bool(), float('-inf'))


@ADAPTERS.register_module()
class TorchAttentionAdapter(HeadMasks):
    """Heads, the width of queries and keys, that of values, and the width of what goes in and out.

    A module that adds a key and a value of its own keeps its forward, and its heads.
    """

    adapts = nn.MultiheadAttention

    def setup(self) -> None:
        """Widths of a head, and the scale, which stays that of the supernet."""
        self.qk_dims = self.v_dims = self.head_dim
        self.scale = self.head_dim**-0.5
        self.places = list(range(self.num_heads))
        self.supported = self.bias_k is None and not self.add_zero_attn
        self.packed = self.in_proj_weight is not None
        if self.supported:
            # PyTorch's fused transformer layers read the weights past this forward, unless they are told this.
            self._qkv_same_embed_dim = False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the module; query is (B, N, C), or (N, B, C), or (N, C)."""
        if not self.supported:
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self.projected(query, key, value)
        q, k = self._mmdms.contract('query', q, k)
        if need_weights or attn_mask is not None or key_padding_mask is not None:
            attention = self.add_mask((q * self.scale) @ k.transpose(-2, -1), attn_mask, key_padding_mask)
            attention = F.dropout(attention.softmax(-1), self.dropout, self.training)
            mixed = attention @ v
        else:  # fused, as in the module itself, and so not counted
            dropout = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        weights = self.weights(attention, average_attn_weights) if need_weights else None
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, N, width)."""
        rows = [self.num_heads * width for width in (self.qk_dims, self.qk_dims, self.v_dims)]
        if self.packed:
            weights = self.in_proj_weight.split(rows)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.split(rows)
        q, k, v = (F.linear(*parts) for parts in zip((query, key, value), weights, biases, strict=True))
        q, k = (self._mmdms.split_heads(part, width='qk_dims').transpose(1, 2) for part in (q, k))
        return q, k, self._mmdms.split_heads(v, width='v_dims').transpose(1, 2)

    def weights(self, attention: Tensor, average: bool) -> Tensor:
        """Attention (B, heads, queries, keys) as it is handed out, on request its mean over heads."""
        if not average:
            return attention
        mask = self._mmdms.follow('heads', attention, 1)
        if mask is None:
            return self._mmdms.hide(attention, 1).mean(1)
        return torch.einsum('bhqk,h->bqk', attention, (mask / mask.sum()).to(attention.dtype))

    def resized(self, old: Shapes) -> None:
        """The width of queries is that of the matrix which reads them."""
        matrix = self.in_proj_weight if self.in_proj_weight is not None else self.q_proj_weight
        self.embed_dim = matrix.size(1)
        if self.in_proj_weight is None:
            self.kdim, self.vdim = self.k_proj_weight.size(1), self.v_proj_weight.size(1)
        else:
            self.kdim = self.vdim = self.embed_dim


@ADAPTERS.register_module()
class TorchEncoderAdapter(Adapter):
    """Keeps PyTorch's encoder from packing a padded batch into nested tensors, which only its own layers can read.

    PyTorch does so in evaluation without gradients. It also leaves zeros at padded places then; here they hold, with
    and without gradients, what the layers compute for them.
    """

    adapts = nn.TransformerEncoder

    def setup(self) -> None:
        """The encoder asks this attribute."""
        self.use_nested_tensor = False

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """As the module."""
        return super().forward(src, mask, src_key_padding_mask, is_causal)
