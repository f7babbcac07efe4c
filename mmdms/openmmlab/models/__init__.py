"""Backbones that papers on pruning measure on and mmpretrain does not have; importing this registers them."""

from .cifar_resnet import CIFARResNet
from .wide_resnet import WideResNet

__all__ = ['CIFARResNet', 'WideResNet']
