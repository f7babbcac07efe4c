"""Convolutional families: CSP, Res2Net, ResNeSt, HRNet, RepVGG, MobileOne, RIFormer, Inception."""

import pytest
import torch
from helpers.adapted import (
    POOLING,
    assert_same_forward,
    assert_space,
    build,
    classifier,
    noise,
    space_of_classifier,
    totals,
)
from helpers.tiny import assert_parity, conv, reasons
from mmpretrain.models.backbones.cspnet import CSPDarkNet, CSPResNet
from mmpretrain.models.backbones.res2net import Res2Net
from mmpretrain.models.backbones.resnest import ResNeSt
from torch import nn

from mmdms.api import build_search_space
from mmdms.slicing.slim import slim
from mmdms.verification.verifier import random_structure


def test_cspdarknet(monkeypatch):
    small = dict(in_channels=(4, 8), out_channels=(8, 16), num_blocks=(1, 2), expand_ratio=(2, 1), bottle_ratio=(2, 1))
    monkeypatch.setitem(CSPDarkNet.arch_settings, 53, {**CSPDarkNet.arch_settings[53], **small})
    space = space_of_classifier(classifier(dict(type='CSPDarkNet', depth=53, out_indices=(1,)), 16), 16)
    # Per stage: downsampling, halves, the middle of every block, after the blocks, final.
    assert_space(space, [4, *[8, 8, 4, 8, 8], *[16, 8, 8, 8, 8, 16]], depth=[1, 2])


def test_cspresnet(monkeypatch):
    small = dict(in_channels=(4, 8), out_channels=(8, 16), num_blocks=(2, 2), expand_ratio=2, bottle_ratio=2)
    small['has_downsampler'] = (False, True)
    monkeypatch.setitem(CSPResNet.arch_settings, 50, {**CSPResNet.arch_settings[50], **small})
    space = space_of_classifier(classifier(dict(type='CSPResNet', depth=50, out_indices=(1,)), 16), 32)
    assert_space(space, [4, *[4, 2, 2, 2, 2, 4, 8], *[8, 8, 4, 4, 4, 4, 8, 16]], depth=[2, 2])


RESNET = dict(depth=50, base_channels=8, stem_channels=8, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))


def test_res2net(monkeypatch):
    monkeypatch.setitem(Res2Net.arch_settings, 50, (Res2Net.arch_settings[50][0], (3,)))
    space = space_of_classifier(classifier(dict(type='Res2Net', scales=3, base_width=6, **RESNET), 32), 32)
    # In the first block nothing is passed between scales: its two convolutions are units of their own.
    assert_space(space, [*[4, 4, 8], *[6, 6, 6], *[6, 6], *[6, 6], 32], depth=[2])


def test_resnest(monkeypatch):
    monkeypatch.setitem(ResNeSt.arch_settings, 50, (ResNeSt.arch_settings[50][0], (2,)))
    space = space_of_classifier(classifier(dict(type='ResNeSt', **RESNET), 32), 32)
    # Both groups of the convolution read 4 channels each, and are added up.
    assert_space(space, [*[4, 4, 8], *[4, 8, 32], *[4, 8, 32], 32], depth=[1])


def hrnet_stage(block, *channels):
    branches = len(channels)
    return dict(num_modules=1, num_branches=branches, block=block, num_blocks=[1] * branches, num_channels=channels)


def test_hrnet():
    extra = dict(
        stage1={**hrnet_stage('BOTTLENECK', 4), 'num_blocks': [2]},
        stage2=hrnet_stage('BASIC', 4, 8),
        stage3=hrnet_stage('BASIC', 4, 8, 12),
        stage4=hrnet_stage('BASIC', 4, 8, 12, 16),
    )
    neck = [dict(type='HRFuseScales', in_channels=(4, 8, 12, 16)), POOLING]
    space = space_of_classifier(classifier(dict(type='HRNet', extra=extra), 2048, neck=neck), 32, seeds=2)
    stem, first, streams = [64, 64], [4, 4, 4, 4, 16], [4, 8, 12, 16]
    blocks, between = [*[4, 8], *[4, 8, 12], *[4, 8, 12, 16]], [4, *[4, 4, 4, 8]]
    wide = [128, 256, 512, 1024]
    neck = [*wide, *(width // 4 for width in wide for _ in range(2)), 2048]
    assert_space(space, [*stem, *first, *streams, *blocks, *between, *neck], depth=[1] * 10)


ARCH = dict(num_blocks=[2, 1, 1, 1], width_factor=[0.125] * 4)


def deployed(model, size):
    """A sliced copy computes the same before and after it is deployed."""
    space = space_of_classifier(model, size)
    subnet = slim(model, space, random_structure(space, 0.6)).double().eval()
    x = noise(1, 3, size, size).double()
    expected = subnet(x)
    subnet.backbone.switch_to_deploy()
    for a, b in zip(subnet(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    return space


def test_repvgg():
    arch = dict(group_layer_map={2: 2}, se_cfg=None, **ARCH)
    model = classifier(dict(type='RepVGG', arch=arch, base_channels=64), 64)
    # The second block has two groups, and a norm beside its convolutions, which ties it to the first.
    assert_space(deployed(model, 32), [8, 4, 16, 32, 64])


def test_repvgg_deployed():
    arch = dict(group_layer_map=None, se_cfg=None, **ARCH)
    space = space_of_classifier(classifier(dict(type='RepVGG', arch=arch, deploy=True), 64), 32)
    assert_space(space, [8, 8, 8, 16, 32, 64])


def test_mobileone():
    arch = dict(num_conv_branches=[2, 1, 1, 1], num_se_blocks=[0, 0, 0, 1], **ARCH)
    model = classifier(dict(type='MobileOne', arch=arch, se_cfg=dict(ratio=2)), 64)
    # All blocks of a stage are tied by their norms, those of the first to the stem; the last two gate.
    assert_space(deployed(model, 32), [8, 16, 32, 64, *[16, 32]])


def test_riformer():
    arch = dict(layers=[1, 2, 1, 1], embed_dims=[4, 8, 12, 16], mlp_ratios=[2, 2, 2, 2], layer_scale_init_value=1e-5)
    space = deployed(classifier(dict(type='RIFormer', arch=arch), 16), 64)
    assert_space(space, [4, 8, 12, 16, *[8, 16, 16, 24, 32]], depth=[1, 2, 1, 1])


@pytest.fixture
def inception():
    """Inception V3, its blocks by single convolutions, so that small images will do."""
    model = build('InceptionV3', num_classes=3, aux_logits=True)
    width = 192
    for name, _ in model.named_children():
        if name.startswith('Mixed'):
            setattr(model, name, conv(width, 6 if name != 'Mixed_7c' else 2048))
            width = 6
    model.AuxLogits = nn.Sequential(conv(6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    model.maxpool1, model.maxpool2 = nn.Identity(), nn.Identity()
    return model


def test_inception_computes_the_same(inception):
    assert_same_forward(inception, noise(2, 3, 32, 32))


def test_the_auxiliary_classifier_of_inception_is_sliced_too(inception):
    x = noise(1, 3, 32, 32)
    space = build_search_space(inception, x)
    assert_parity(inception, space, x)
    assert totals(space) == dict(channels=sorted([32, 32, 64, 80, 192, *[6] * 10, 2048, 5]))
    assert reasons(space) == {'AuxLogits.3': 'its channels are read by no weight; '}  # its classes
    subnet = slim(inception, space, random_structure(space, 0.5))
    subnet.train()
    assert [tuple(out.shape) for out in subnet(noise(2, 3, 32, 32))] == [(2, 3), (2, 3)]
    without = build('InceptionV3', num_classes=3)
    for name, child in inception.named_children():
        if name != 'AuxLogits':
            setattr(without, name, child)
    plain = build_search_space(without, x, verify=False)
    assert plain.cost('flops', torch.ones(plain.num_elements)) == space.cost('flops', torch.ones(space.num_elements))
