"""EVA-02: queries and keys are rotated by their position, two channels at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..network.copying import copy_network
from ..registry import ADAPTERS
from .attention import SelfAttention
from .base import Adapter


@ADAPTERS.register_module()
class RotaryEmbeddingAdapter(Adapter):
    """Rotation of pairs of neighbouring channels; a pair goes or stays together."""

    adapts = 'mmpretrain.models.utils.position_encoding.RotaryEmbeddingFast'
    patch_resolution: tuple[int, ...]

    def forward(self, x: Tensor, patch_resolution: int | tuple[int, int]) -> Tensor:
        """As the module; x is (B, heads, N, width)."""
        side = patch_resolution
        shape = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
        if shape != tuple(self.patch_resolution):
            if self.freqs_cos.size(-1) != 2 * self.half_dim:
                raise ValueError(f'a sliced network takes maps of {self.patch_resolution} patches only, not {shape}')
            self.patch_resolution = shape
            for name, table in zip(('freqs_cos', 'freqs_sin'), self.compute_position_embedding(), strict=True):
                self.register_buffer(name, table.to(x.device))
        turned = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        return x * self.freqs_cos + turned * self.freqs_sin


@ADAPTERS.register_module()
class AttentionWithRoPEAdapter(SelfAttention):
    """Attention of EVA-02."""

    adapts = 'mmpretrain.models.backbones.vit_eva02.AttentionWithRoPE'
    rope: nn.Module | None

    def setup(self) -> None:
        """The rotation's tables are those of this layer alone, so that its width is its own."""
        super().setup()
        self.rope = None if self.rope is None else copy_network(self.rope)

    def forward(self, x: Tensor, patch_resolution: tuple[int, int]) -> Tensor:
        """As the module; x is (B, N, C)."""
        q, k, v = self.qkv_parts(self.qkv(x))
        if self.rope:
            first = 1 if self.with_cls_token else 0
            q, k = (
                torch.cat([part[:, :, :first], self.rope(part[:, :, first:], patch_resolution)], dim=2).type_as(v)
                for part in (q, k)
            )
        q, k = self._mmdms.contract('query', q, k)
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1).type_as(x)
        return self.proj_drop(self.proj((self.attn_drop(attention) @ v).transpose(1, 2).flatten(2)))
