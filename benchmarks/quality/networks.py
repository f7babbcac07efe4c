"""The networks of the benchmark and their narrowed forms.

Both are mmpretrain backbones with the strides of a 32x32 input, followed by
average pooling and a linear head. A narrowed network is described by one width
per *unit*: the convolutions whose output channels must stay equal.
"""

import torch
from mmengine.analysis import get_model_complexity_info
from mmpretrain.models.backbones import MobileNetV2
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR
from torch import nn

from .data import CLASSES, SIZE


class CanvasResNet(ResNet_CIFAR):
    """ResNet-18's topology with widths 16-32-64-128 and a 3x3 stem of stride 2, without max pooling."""

    def __init__(self):
        super().__init__(depth=18, stem_channels=16, base_channels=16)
        self.conv1.stride = (2, 2)


class CanvasMobileNetV2(MobileNetV2):
    """Half-width MobileNetV2 with three of its five strides: a canvas ends at 4x4, not at 1x1."""

    arch_settings = [
        [1, 16, 1, 1],
        [6, 24, 2, 2],
        [6, 32, 3, 1],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 1],
        [6, 320, 1, 1],
    ]

    def __init__(self):
        super().__init__(widen_factor=0.5)


class Classifier(nn.Module):
    """A backbone, global average pooling and a linear head: (B, 3, 32, 32) to (B, 10) logits."""

    def __init__(self, backbone, channels):
        super().__init__()
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x):
        return self.head(self.pool(self.backbone(x)[-1]).flatten(1))


NETWORKS = {'resnet': (CanvasResNet, 128), 'mobilenetv2': (CanvasMobileNetV2, 1280)}


def build_network(name, seed=0):
    """Build a network by name, its weights drawn from ``seed``."""
    if name not in NETWORKS:
        raise ValueError(f'unknown network {name!r}: choose from {sorted(NETWORKS)}')
    backbone, channels = NETWORKS[name]
    return reinitialise(Classifier(backbone(), channels), seed)


def example_input():
    """One blank canvas."""
    return torch.zeros(1, 3, SIZE, SIZE)


@torch.no_grad()
def reinitialise(model, seed):
    """Forget all weights: draw them anew, in place, by PyTorch's defaults for the sizes that the layers have now.

    The caller's random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
                module.reset_parameters()
    return model


def count_flops(model):
    """Multiply-accumulates of one canvas, as mmengine's complexity analysis counts them."""
    training = model.training
    model.eval()
    flops = get_model_complexity_info(model, inputs=(example_input(),), show_table=False, show_arch=False)['flops']
    model.train(training)
    return flops
