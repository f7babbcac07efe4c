"""Convolutional families that mix positions in their own way: VAN, HorNet, RepMLP, ConvMixer, PoolFormer, RepLKNet."""

import pytest
import torch
from helpers.adapted import assert_same_forward, assert_space, build, classifier, noise, space_of_classifier
from mmpretrain.models.backbones.hornet import GlobalLocalFilter, HorNetLayerNorm

from mmdms.adapters.base import adapt
from mmdms.masks.channel_masks import Masks
from mmdms.slicing.slim import slim
from mmdms.verification.parity import prepare_for_parity
from mmdms.verification.verifier import random_structure

VAN = dict(embed_dims=[4, 8, 12, 16], depths=[1, 2, 1, 1], ffn_ratios=[2, 2, 2, 2])


def test_van_computes_the_same():
    assert_same_forward(build('VAN', arch=VAN, out_indices=(1, 3)), noise(2, 3, 64, 64))


def test_van():
    space = space_of_classifier(classifier(dict(type='VAN', arch=VAN), 16), 64)
    # A gate is of the width of what it gates.
    gates, hidden = [4, 8, 8, 12, 16], [8, 16, 16, 24, 32]
    assert_space(space, [4, 8, 12, 16, *gates, *hidden], depth=[1, 2, 1, 1])


PLAIN = dict(type='DW', kernel_size=3)
HORNET = dict(
    base_dim=8,
    depths=[1, 1, 2, 1],
    orders=[2, 3, 2, 2],
    dw_cfg=[PLAIN, dict(type='GF', h=4, w=3), dict(type='GF', h=4, w=3), PLAIN],
)


@pytest.mark.parametrize('data_format', ['channels_first', 'channels_last'])
def test_hornet_layer_norm_computes_the_same(data_format):
    norm = HorNetLayerNorm(6, data_format=data_format)
    assert_same_forward(norm, noise(2, 6, 4, 4) if data_format == 'channels_first' else noise(2, 4, 4, 6))


@pytest.mark.parametrize('size', [4, 5])
def test_a_filter_of_frequencies_computes_the_same(size):
    """The module computes in float32, and resamples its filter for images of another size."""
    module = GlobalLocalFilter(6, h=4, w=3)
    x = noise(2, 6, size, size)
    expected = module(x)
    adapt(module)
    torch.testing.assert_close(module(x), expected)


def test_hornet():
    space = space_of_classifier(classifier(dict(type='HorNet', arch=HORNET), 64, neck=None), 32)
    # Widths of the orders; where frequencies are filtered, a channel of either half goes with two that come out.
    orders = [*[4, 8], *[2, 4, 8], *[8, 16], *[8, 16], *[32, 64]]
    assert_space(space, [8, 16, 32, 64, *orders, *[32, 64, 128, 128, 256]], depth=[1, 1, 2, 1])


REPMLP = dict(img_size=16, arch=dict(channels=[4, 8], depths=[1, 2], sharesets_nums=[1, 4]), out_indices=(1,))


@pytest.mark.parametrize('deploy', [False, True])
def test_repmlp_computes_the_same(deploy):
    assert_same_forward(build('RepMLPNet', deploy=deploy, **REPMLP), noise(2, 3, 16, 16))


def test_repmlp():
    model = classifier(dict(type='RepMLPNet', **REPMLP), 8)
    space = space_of_classifier(model, 16)
    # Channels are rows times sets; the first stage has one set. Squeezing keeps 8 channels.
    assert_space(space, [4, 4, *[8, 8, 8], *[16, 32, 32]], heads=[2], depth=[1, 2])

    subnet = slim(prepare_for_parity(model), space, random_structure(space, 0.6)).float()
    x = noise(1, 3, 16, 16)
    expected = subnet(x)
    subnet.backbone.switch_to_deploy()
    torch.testing.assert_close(subnet(x), expected, rtol=1e-4, atol=1e-4)


def test_norms_of_repmlp_know_only_the_rows_that_stay():
    """In training, too, the masked network computes what the sliced one does."""
    model = classifier(dict(type='RepMLPNet', **REPMLP), 8)
    space = space_of_classifier(model, 16, seeds=0)
    model = prepare_for_parity(model)
    structure = random_structure(space, 0.5)
    subnet = slim(model, space, structure)
    masks = Masks(model, space)
    masks.set(space.mask(structure).double())
    model.train()
    subnet.train()
    x = noise(4, 3, 16, 16).double()
    torch.testing.assert_close(model(x), subnet(x))


def test_convmixer():
    arch = dict(embed_dims=6, depth=3, patch_size=4, kernel_size=3)
    space = space_of_classifier(classifier(dict(type='ConvMixer', arch=arch), 6), 16)
    assert_space(space, [6, 6, 6, 6], depth=[3])
    assert list(space.blocks.values()) == [(f'backbone.stages.{layer}.0',) for layer in range(3)]


def test_poolformer():
    arch = dict(layers=[1, 2, 1, 1], embed_dims=[4, 8, 12, 16], mlp_ratios=[2, 2, 2, 2], layer_scale_init_value=1e-5)
    space = space_of_classifier(classifier(dict(type='PoolFormer', arch=arch), 16), 64)
    assert_space(space, [4, 8, 12, 16, *[8, 16, 16, 24, 32]], depth=[1, 2, 1, 1])


@pytest.mark.parametrize('deploy', [False, True])
def test_replknet(deploy):
    arch = dict(large_kernel_sizes=[7, 5], layers=[1, 2], channels=[4, 8], small_kernel=3, dw_ratio=1.5)
    config = dict(type='RepLKNet', arch=arch, strides=(2, 2), dilations=(1, 1), out_indices=(1,))
    model = classifier(dict(small_kernel_merged=deploy, **config), 8)
    space = space_of_classifier(model, 32)
    # Large kernels and feed-forward blocks take turns in a stage, and any of them can go.
    assert_space(space, [4, 4, 8, *[6, 12, 12], *[16, 32, 32]], depth=[2, 4])

    subnet = slim(model, space, random_structure(space, 0.6)).double().eval()
    x = noise(1, 3, 32, 32).double()
    expected = subnet(x)
    subnet.backbone.switch_to_deploy()
    torch.testing.assert_close(subnet(x), expected)
