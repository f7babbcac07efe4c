"""The networks of the sparsity benchmark: the papers' CIFAR networks at a quarter of the resolution.

A stride and a max pool of 2 follow the stem's convolution, so that the three stages see 8x8, 4x4 and 2x2 pixels of a
32x32 canvas and a run takes seconds; weights and topology stay those of the backbones.
"""

import torch
from quality.networks import Classifier
from torch import nn

from mmdms.openmmlab.models import CIFARResNet, WideResNet


def _resnet20():
    backbone = CIFARResNet(depth=20)
    backbone.stem[0].stride = (2, 2)
    backbone.stem.append(nn.MaxPool2d(2))
    return Classifier(backbone, 64)


def _wrn10_2():
    backbone = WideResNet(depth=10, widen_factor=2)
    backbone.stem.stride = (2, 2)
    backbone.stem = nn.Sequential(backbone.stem, nn.MaxPool2d(2))
    return Classifier(backbone, 128)


NETWORKS = {'resnet20': _resnet20, 'wrn10-2': _wrn10_2}


def build_network(name, seed):
    """Build a network whose weights are drawn from ``seed``; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[name]()
        model.backbone.init_weights()
    return model.to(memory_format=torch.channels_last)
