"""CARAFE: every channel is upsampled on its own, by weights that all share; mmcv has the operation for GPUs alone."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class CARAFEPackAdapter(Adapter):
    """Upsamples (B, C, H, W) to (B, C, H * scale, W * scale); on a GPU with mmcv's own operation."""

    adapts = 'mmcv.ops.carafe.CARAFEPack'

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, whose number of channels appears in no attribute that is used."""
        return super().forward(x)

    def feature_reassemble(self, x: Tensor, mask: Tensor) -> Tensor:
        """As the layer."""
        if x.is_cuda:
            return super().feature_reassemble(x, mask)
        return reassemble(x, mask, self.up_kernel, self.up_group, self.scale_factor)


def reassemble(x: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """Sum the neighbourhood of every position, weighted anew for each of the positions that it becomes.

    Args:
        x: (B, C, H, W).
        masks: weights, (B, groups * kernel * kernel, H * scale, W * scale); each group of channels has its own.
        kernel: side of the neighbourhood, odd.
        groups: parts that the channels are divided into.
        scale: positions along each side that one becomes.

    Returns:
        (B, C, H * scale, W * scale).
    """
    height, width = x.shape[2:]
    weights = masks.view(len(x), groups, 1, kernel**2, height, scale, width, scale)
    padded = F.pad(x, [kernel // 2] * 4).unflatten(1, (groups, -1))
    total: Any = 0
    for place in range(kernel**2):  # one after the other: all of them would take much memory
        row, column = divmod(place, kernel)
        near = padded[..., row : row + height, column : column + width]
        total = total + near[..., None, :, None] * weights[:, :, :, place]
    return total.flatten(5).flatten(3, 4).flatten(1, 2)
