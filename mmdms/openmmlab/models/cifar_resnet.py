"""The three-stage ResNet for CIFAR."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from ...errors import ConfigError
from ..registries import MODELS

INIT_CFG = (
    dict(type='Kaiming', layer='Conv2d'),  # fan out, as He et al., "Delving deep into rectifiers"
    dict(type='Constant', layer='BatchNorm2d', val=1.0),
)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size of its input, but for its stride; the norm that follows has the bias."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """``relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))``.

    Where the shape changes the shortcut is a 1x1 convolution with a norm (option B of the paper).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.norm1(self.conv1(x)))
        return self.relu(identity + self.norm2(self.conv2(x)))


@MODELS.register_module()
class CIFARResNet(BaseModule):
    """ResNet-20, 32, 44, 56, 110: three stages of ``(depth - 2) / 6`` blocks (He et al., CVPR 2016, section 4.2).

    The paper's shortcuts pad with zeros where the shape changes (option A) and have no weights; here they are
    1x1 convolutions, which adds 2,752 weights to every depth at 16 base channels.

    Args:
        depth: 6n + 2, layers with weights on the longest path, the classifier's included.
        in_channels: channels of an image.
        base_channels: channels of the stem and of the first stage; the others have 2 and 4 times as many.
        init_cfg: as of any ``BaseModule``.

    Raises:
        ConfigError: for a depth that is not 6n + 2.
    """

    def __init__(self, depth: int, in_channels: int = 3, base_channels: int = 16, init_cfg: Any = INIT_CFG) -> None:
        super().__init__(init_cfg)
        if type(depth) is not int or depth < 8 or depth % 6 != 2:
            raise ConfigError(f'backbone.depth of CIFARResNet must be 6n + 2 (20, 32, 56, ...), but it is {depth!r}')
        stem = conv3x3(in_channels, base_channels)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(base_channels), nn.ReLU(inplace=True))
        inputs = base_channels
        for stage in range(3):
            outputs, blocks = base_channels * 2**stage, []
            for block in range((depth - 2) // 6):
                blocks.append(BasicBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
            setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images (N, in_channels, H, W) to the feature map of the last stage, (N, 4 * base_channels, H / 4, W / 4)."""
        return (self.layer3(self.layer2(self.layer1(self.stem(x)))),)
