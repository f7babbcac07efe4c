"""Heads and necks of classifiers upon a small ResNet, and the networks that hold their own."""

import pytest
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
from helpers.tiny import assert_parity, reasons
from mmpretrain.models.heads.margin_head import NormProduct
from torch import nn

from mmdms.api import build_search_space
from mmdms.slicing.slim import slim

RESNET = dict(type='ResNet', depth=18, stem_channels=4, base_channels=4, num_stages=1, out_indices=(0,))
RESNET.update(strides=(1,), dilations=(1,))
BACKBONE = [4, 4, 4]
"""The stream, and the middle of both blocks."""


def network(head, neck=POOLING):
    return classifier(RESNET, 4, neck, head)


CLASSES = dict(num_classes=3, in_channels=4)
TASKS = dict(a=dict(type='LinearClsHead', num_classes=2, in_channels=4), b=dict(type='LinearClsHead', **CLASSES))
HEADS = {
    'linear': (dict(type='LinearClsHead', **CLASSES), []),
    'stacked': (dict(type='StackedLinearClsHead', mid_channels=[6, 5], norm_cfg=dict(type='BN1d'), **CLASSES), [6, 5]),
    'multi-label': (dict(type='MultiLabelLinearClsHead', **CLASSES), []),
    'regression': (dict(type='LinearRegressionHead', **CLASSES), []),
    'several tasks': (dict(type='MultiTaskHead', task_heads=TASKS), []),
    'vision graph': (dict(type='VigClsHead', hidden_dim=6, **CLASSES), [6]),
}


@pytest.mark.parametrize('name', HEADS)
def test_head(name):
    head, units = HEADS[name]
    assert_space(space_of_classifier(network(head), 16), [*BACKBONE, *units], depth=[2])


NECKS = {
    'generalised mean': (dict(type='GeneralizedMeanPooling'), []),
    'linear': ([POOLING, dict(type='LinearNeck', in_channels=4, out_channels=6)], [6]),
}


@pytest.mark.parametrize('name', NECKS)
def test_neck(name):
    neck, units = NECKS[name]
    head = dict(type='LinearClsHead', num_classes=3, in_channels=6 if units else 4)
    assert_space(space_of_classifier(network(head, neck), 16), [*BACKBONE, *units], depth=[2])


def test_class_specific_attention():
    head = dict(type='CSRAClsHead', num_heads=2, lam=0.1, **CLASSES)
    space = space_of_classifier(network(head, None), 16)
    assert totals(space) == dict(channels=BACKBONE, depth=[2])
    # Its logits are outputs, which are frozen anyway, divided by the lengths of weights.
    assert all('meets a tensor of fixed size in aten.div' in reason for reason in reasons(space).values())


@pytest.mark.parametrize('options', [{}, {'k': 2}, {'feature_norm': False, 'bias': True}, {'weight_norm': False}])
def test_product_of_directions_computes_the_same(options):
    assert_same_forward(NormProduct(5, 3, **options), noise(2, 5))


@pytest.mark.parametrize('centres', [1, 2])
def test_arcface(centres):
    space = space_of_classifier(network(dict(type='ArcFaceClsHead', num_subcenters=centres, **CLASSES)), 16)
    assert totals(space) == dict(channels=BACKBONE, depth=[2])
    assert all('meets a tensor of fixed size in aten.div' in reason for reason in reasons(space).values())


def test_lenet():
    model = build('LeNet5', num_classes=3)
    assert_same_forward(model, noise(2, 1, 32, 32))
    assert_same_forward(model, noise(1, 1, 32, 32))
    space = build_search_space(model, noise(1, 1, 32, 32))
    assert_parity(model, space, noise(1, 1, 32, 32))
    assert_space(space, [6, 16, 120, 84])


def test_lenet_of_one_channel():
    model = build('LeNet5', num_classes=3)
    space = build_search_space(model, noise(1, 1, 32, 32))
    subnet = slim(model, space, space.structure(space.minimum_mask()))
    for batch, shape in ((1, (3,)), (2, (2, 3))):
        assert subnet(noise(batch, 1, 32, 32))[0].shape == shape


def test_alexnet():
    """Of a smaller classifier, as its own takes seconds."""
    model = build('AlexNet', num_classes=3)
    model.classifier = nn.Sequential(nn.Linear(256 * 6 * 6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = noise(1, 3, 224, 224)
    assert_same_forward(model, x, train=False)
    space = build_search_space(model, x)
    assert_parity(model, space, x, seeds=1)
    assert_space(space, [64, 192, 384, 256, 256, 8])
