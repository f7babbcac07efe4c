"""VAN: its backbone reshapes by a width that it asks of the last block."""

from __future__ import annotations

from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class VANAdapter(Adapter):
    """The whole backbone."""

    adapts = 'mmpretrain.models.backbones.van.VAN'

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """As the module; x is (B, C, H, W)."""
        outputs = []
        for stage in range(1, self.num_stages + 1):
            x, size = getattr(self, f'patch_embed{stage}')(x)
            for block in getattr(self, f'blocks{stage}'):
                x = block(x)
            tokens = getattr(self, f'norm{stage}')(x.flatten(2).transpose(1, 2))
            x = tokens.transpose(1, 2).unflatten(2, size).contiguous()
            if stage - 1 in self.out_indices:
                outputs.append(x)
        return tuple(outputs)
