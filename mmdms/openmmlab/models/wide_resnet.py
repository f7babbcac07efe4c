"""The wide residual network for CIFAR."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from ...errors import ConfigError
from ..registries import MODELS
from .cifar_resnet import INIT_CFG, conv3x3


class PreActBlock(nn.Module):
    """``shortcut(x) + conv(relu(norm(conv(relu(norm(x))))))``.

    Where the shape changes the shortcut is a 1x1 convolution, which reads ``relu(norm(x))``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(drop_rate)
        self.conv2 = conv3x3(outputs, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        inside = self.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(inside)
        inside = self.relu(self.norm2(self.conv1(inside)))
        return identity + self.conv2(self.dropout(inside))


@MODELS.register_module()
class WideResNet(BaseModule):
    """WRN-depth-widen_factor: three stages of ``(depth - 4) / 6`` blocks (Zagoruyko and Komodakis, BMVC 2016).

    Blocks are pre-activated, ``B(3, 3)`` of the paper's section 3.

    Args:
        depth: 6n + 4, convolutions on the longest path, with those of the shortcuts counted as the paper does.
        widen_factor: the stages have 16, 32 and 64 times as many channels.
        in_channels: channels of an image.
        drop_rate: of the dropout between the two convolutions of a block.
        init_cfg: as of any ``BaseModule``.

    Raises:
        ConfigError: for a depth that is not 6n + 4.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int = 1,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        init_cfg: Any = INIT_CFG,
    ) -> None:
        super().__init__(init_cfg)
        if type(depth) is not int or depth < 10 or depth % 6 != 4:
            raise ConfigError(f'backbone.depth of WideResNet must be 6n + 4 (16, 28, 40, ...), but it is {depth!r}')
        inputs = 16
        self.stem = conv3x3(in_channels, inputs)
        for stage in range(3):
            outputs, blocks = 16 * widen_factor * 2**stage, []
            for block in range((depth - 4) // 6):
                blocks.append(PreActBlock(inputs, outputs, 2 if stage and not block else 1, drop_rate))
                inputs = outputs
            setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images (N, in_channels, H, W) to the last feature map, (N, 64 * widen_factor, H / 4, W / 4)."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return (self.relu(self.norm(x)),)
