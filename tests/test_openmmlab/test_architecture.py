"""Architectures of any package, one after the other in one process."""

import pytest
from mmengine.registry import DefaultScope, init_default_scope

from mmdms.openmmlab.architecture import build_architecture

CLASSIFIER = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=64, num_classes=5),
)


@pytest.fixture
def after_mmdet():
    """mmdet was the package of the process until now; it is so again after the test."""
    pytest.importorskip('mmdet')
    init_default_scope('mmdet')
    yield
    assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    init_default_scope('mmpretrain')


def test_parts_are_of_the_package_that_the_whole_names(after_mmdet):
    """mmdet has parts of the same names, and no data preprocessor for classifiers."""
    model = build_architecture(CLASSIFIER)
    assert {type(part).__module__.partition('.')[0] for part in model.children()} == {'mmpretrain'}
