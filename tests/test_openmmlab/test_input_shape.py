"""The input size that a config says."""

import pytest
from mmengine.config import Config

from mmdms.errors import ConfigError
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.input_shape import infer_input_shape


@pytest.mark.parametrize(
    ('config', 'shape'),
    [
        ('mmpretrain::resnet/resnet50_8xb32_in1k.py', (3, 224, 224)),
        ('mmpretrain::lenet/lenet5_mnist.py', (1, 32, 32)),
        ('mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py', (3, 640, 640)),
        ('mmyolo::yolov5/yolov5_n-p6-v62_syncbn_fast_8xb16-300e_coco.py', (3, 1280, 1280)),
        ('mmdet::ssd/ssd300_coco.py', (3, 300, 300)),
        ('mmyolo::ppyoloe/ppyoloe_s_fast_8xb32-300e_coco.py', (3, 640, 640)),
        # Pipelines give (width, height); batches are padded to multiples of 32.
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (3, 800, 1344)),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', (3, 800, 1333)),
    ],
)
def test_zoo(config, shape):
    assert infer_input_shape(load_config(config)) == shape


def test_the_architecture_of_a_search_config_counts():
    architecture = dict(data_preprocessor=dict(mean=[0.0], pad_size_divisor=16))
    config = Config(
        dict(
            model=dict(type='mmdms.DMSAlgorithm', architecture=architecture),
            test_dataloader=dict(dataset=dict(pipeline=[dict(type='Resize', scale=(50, 30))])),
        )
    )
    assert infer_input_shape(config) == (1, 32, 64)


def test_a_config_that_does_not_tell():
    with pytest.raises(ConfigError, match='--input-shape 3 HEIGHT WIDTH'):
        infer_input_shape(Config(dict(model=dict(type='RetinaNet'))))
