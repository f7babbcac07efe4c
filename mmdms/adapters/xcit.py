"""XCiT: the class token attends to all (see :mod:`~mmdms.adapters.channel_attention` for the other layers)."""

from __future__ import annotations

from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class ClassAttentionAdapter(Adapter):
    """Attention of the class token, with a layer each for query, key and value."""

    adapts = 'mmpretrain.models.backbones.xcit.ClassAttntion'

    def setup(self) -> None:
        """Widths of a head."""
        width = self.q.out_features // self.num_heads
        self.qk_dims, self.v_dims = width, width

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, N, C), the class token first."""
        q = self._mmdms.split_heads(self.q(x[:, :1]), width='qk_dims').transpose(1, 2)
        k = self._mmdms.split_heads(self.k(x), width='qk_dims').transpose(1, 2)
        v = self._mmdms.split_heads(self.v(x), width='v_dims').transpose(1, 2)
        q, k = self._mmdms.contract('query', q, k)
        attention = self.attn_drop(((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).flatten(2)))
