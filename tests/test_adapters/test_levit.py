"""Attention with biases: LeViT, TinyViT, EfficientFormer."""

import pytest
import torch
from helpers.adapted import assert_same_forward, assert_space, build, classifier, noise, space_of_classifier
from mmpretrain.models.backbones.efficientformer import AttentionWithBias
from mmpretrain.models.backbones.levit import LeViT
from mmpretrain.models.utils.attention import LeAttention

from mmdms.slicing.slim import slim
from mmdms.verification.verifier import random_structure

ARCH = dict(embed_dims=[16, 24], num_heads=[2, 3], depths=[1, 1], key_dims=[4, 4])


@pytest.fixture
def levit(monkeypatch):
    monkeypatch.setitem(LeViT.arch_zoo, 'tiny', ARCH)
    return dict(type='LeViT', arch='tiny', img_size=64)


def test_levit_computes_the_same(levit):
    assert_same_forward(build('LeViT', arch='tiny', img_size=64), noise(2, 3, 64, 64))


def test_levit(levit):
    space = space_of_classifier(classifier(levit, 24), 64)
    stem, first, between, second = [2, 4, 8, 16], [4, 8, 32], [4, 16, 24, 48], [4, 8, 48]
    assert_space(space, [*stem, *first, *between, *second], heads=[2, 4, 3], depth=[2, 3])


def test_a_sliced_levit_can_be_fused(levit):
    model = classifier(levit, 24)
    space = space_of_classifier(model, 64, seeds=0)
    subnet = slim(model, space, random_structure(space, 0.6)).double().eval()
    x = noise(1, 3, 64, 64).double()
    expected = subnet(x)
    subnet.backbone.switch_to_deploy()
    torch.testing.assert_close(subnet(x), expected)


def test_le_attention_computes_the_same():
    assert_same_forward(LeAttention(8, key_dim=3, num_heads=2, attn_ratio=2, resolution=(2, 3)), noise(2, 6, 8))


def test_tinyvit():
    arch = dict(channels=[8, 12, 16, 20], num_heads=[1, 2, 2, 4], depths=[2, 1, 1, 1])
    model = classifier(dict(type='TinyViT', arch=arch, img_size=(64, 64), window_size=[4, 4, 2, 2]), 20, neck=None)
    assert_same_forward(model.backbone, noise(2, 3, 64, 64), train=False)
    space = space_of_classifier(model, 64)
    # Between stages there are two layers of the new width.
    stem, convs, merges = [4, 8], [32, 32], [12, 12, 16, 16, 20, 20]
    attention = [6, 6, 8, 8, 5, 5]
    mlps = [48, 64, 80]
    assert_space(space, [*stem, *convs, *merges, *attention, *mlps], heads=[2, 2, 4], depth=[2])


def test_attention_with_bias_computes_the_same():
    assert_same_forward(AttentionWithBias(8, num_heads=2, key_dim=3, attn_ratio=2, resolution=3), noise(2, 9, 8))


def test_efficientformer():
    arch = dict(layers=[1, 1, 1, 3], embed_dims=[8, 8, 12, 16], downsamples=[False, True, True, True], vit_num=2)
    model = classifier(dict(type='EfficientFormer', arch=arch), 16, neck=dict(type='GlobalAveragePooling', dim=1))
    assert_same_forward(model.backbone, noise(1, 3, 224, 224), train=False)
    space = space_of_classifier(model, 224, seeds=2)
    # Heads have queries and keys of 32 and values of 128, whatever the width of the embedding.
    stem, mlps, merges, attention = [4, 8], [32, 32, 48, 64, 64, 64], [8, 12, 16], [32, 128, 32, 128]
    assert_space(space, [*stem, *mlps, *merges, *attention], heads=[8, 8], depth=[1, 1, 1, 3])
