"""ShuffleNet V1 and V2."""

import json

import pytest
import torch
from helpers.adapted import POOLING, assert_same_forward, assert_space, classifier, noise, space_of_classifier
from helpers.tiny import Net, conv, image, space_of
from mmpretrain.models.backbones.shufflenet_v1 import ShuffleUnit
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from torch import nn

from mmdms.adapters.base import adapt
from mmdms.openmmlab.export.subnet import build_subnet, subnet_config
from mmdms.slicing.slim import slim
from mmdms.verification.verifier import random_structure


@pytest.mark.parametrize('combine', ['add', 'concat'])
def test_a_unit_of_the_first_version_computes_the_same(combine):
    outputs = 24 if combine == 'add' else 48
    unit = ShuffleUnit(24, outputs, groups=3, first_block=False, combine=combine)
    assert_same_forward(unit, noise(2, 24, 4, 4))


def test_memory_is_saved_by_computing_again():
    unit = ShuffleUnit(24, 24, groups=3).eval()
    x, again = (noise(1, 24, 4, 4).requires_grad_() for _ in range(2))
    unit(x).square().sum().backward()
    adapt(unit)
    unit.with_cp = True
    unit(again).square().sum().backward()
    torch.testing.assert_close(again.grad, x.grad)


def test_a_unit_of_one_group_computes_the_same():
    assert_same_forward(ShuffleUnit(8, 8, groups=1), noise(2, 8, 4, 4))


@pytest.mark.parametrize('stride', [1, 2])
def test_a_block_of_the_second_version_computes_the_same(stride):
    assert_same_forward(InvertedResidual(8, 8 * stride, stride=stride), noise(2, 8, 4, 4))


def test_first_version():
    units = nn.Sequential(
        ShuffleUnit(48, 48, groups=3, first_block=False),
        ShuffleUnit(48, 96, groups=3, first_block=False, combine='concat'),
    )
    net = Net(lambda n, x: n.out(n.units(n.stem(x))), stem=conv(3, 48), units=units, out=conv(96, 2))
    # Groups read a third each of the stream and of the bottlenecks, of 12 and 24 channels; so the last layer gives.
    assert_space(space_of(net, image()), [16, 4, 8, 16], depth=[1])


def test_second_version():
    blocks = nn.Sequential(InvertedResidual(8, 8), InvertedResidual(8, 8))
    net = Net(lambda n, x: n.out(n.blocks(n.stem(x))), stem=conv(3, 8), blocks=blocks, out=conv(8, 2))
    # Channels are told apart by the block that works upon them: the first, the second, or none.
    assert_space(space_of(net, image()), [*[4, 2, 2], *[4, 2, 2], *[4, 4]])


@pytest.mark.parametrize('kind', ['ShuffleNetV1', 'ShuffleNetV2'])
def test_an_exported_network_is_built_again(kind):
    channels = 960 if kind == 'ShuffleNetV1' else 1024
    model = classifier(dict(type=kind), channels)
    space = space_of_classifier(model, 32, seeds=1)
    structure = random_structure(space, 0.6)
    subnet = slim(model, space, structure).eval()
    architecture = dict(type='ImageClassifier', backbone=dict(type=kind), neck=POOLING)
    architecture['head'] = dict(type='LinearClsHead', num_classes=3, in_channels=channels)
    config = subnet_config(architecture, model, subnet, space, space.mask(structure))
    config.pop('type')
    again = build_subnet(**json.loads(json.dumps(config))).eval()
    again.load_state_dict(subnet.state_dict())
    x = noise(2, 3, 32, 32)
    torch.testing.assert_close(again(x), subnet(x), rtol=0, atol=0)
