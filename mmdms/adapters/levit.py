"""Attention with a bias per head and offset: LeViT, TinyViT, EfficientFormer."""

from __future__ import annotations

from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


class BiasedAttention(Adapter):
    """What these modules share: queries and keys of ``key_dim``, values of ``d``, and a bias per pair of tokens.

    Their ``train`` keeps the biases of evaluation in an attribute, which would
    outlive a change of the parameter; it is not used here.
    """

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values (B, heads, M, d), as mixed by queries (B, heads, N, key_dim) and keys, as (B, N, heads * d)."""
        q, k = self._mmdms.contract('query', q, k)
        bias = self.attention_biases[:, self.attention_bias_idxs]
        attention = ((q @ k.transpose(-2, -1)) * self.scale + bias).softmax(dim=-1)
        return (attention @ v).transpose(1, 2).flatten(2)


class BiasedSelfAttention(BiasedAttention):
    """With one layer for all three, which lie one after the other in every head."""

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C)."""
        heads = self._mmdms.split_heads(self.qkv(x), width=('key_dim', 'key_dim', 'd')).transpose(1, 2)
        q, k, v = heads.split([self.key_dim, self.key_dim, self.d], dim=-1)
        return self.proj(self.mixed(q, k, v))


@ADAPTERS.register_module()
class LeViTAttentionAdapter(BiasedSelfAttention):
    """LeViT."""

    adapts = 'mmpretrain.models.backbones.levit.Attention'


@ADAPTERS.register_module()
class AttentionWithBiasAdapter(BiasedSelfAttention):
    """EfficientFormer."""

    adapts = 'mmpretrain.models.backbones.efficientformer.AttentionWithBias'


@ADAPTERS.register_module()
class LeAttentionAdapter(BiasedSelfAttention):
    """TinyViT, which normalises first."""

    adapts = 'mmpretrain.models.utils.attention.LeAttention'

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C)."""
        return super().forward(self.norm(x))


@ADAPTERS.register_module()
class AttentionSubsampleAdapter(BiasedAttention):
    """Between stages of LeViT: queries come from a part of the tokens."""

    adapts = 'mmpretrain.models.backbones.levit.AttentionSubsample'

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C)."""
        keys = self._mmdms.split_heads(self.kv(x), width=('key_dim', 'd')).transpose(1, 2)
        k, v = keys.split([self.key_dim, self.d], dim=-1)
        q = self._mmdms.split_heads(self.q(x), width='key_dim').transpose(1, 2)
        return self.proj(self.mixed(q, k, v))
