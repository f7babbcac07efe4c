"""FLOPs equal those that mmengine counts, whole and cut at random: torchvision's classifiers, and the sweep's."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision

from mmdms.api import build_search_space
from mmdms.openmmlab.architecture import tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.example import example_of
from mmdms.openmmlab.input_shape import infer_input_shape
from mmdms.verification.verifier import random_structure

sys.path.append(str(Path(__file__).parents[1] / 'benchmarks'))  # at the end: tools/test.py must hide nothing

from sweep.counted import TOLERANCE, compared, reasons  # noqa: E402
from sweep.measure import build  # noqa: E402
from sweep.zoo import DETECTORS, read_zoo  # noqa: E402

SAMPLE = ['mobilenet_v3_small', 'resnet18', 'shufflenet_v2_x0_5', 'squeezenet1_1']
# The smallest member of every family, but for what is in the sample, and regnets of both kinds.
FAMILIES = [
    'alexnet', 'convnext_tiny', 'densenet121', 'efficientnet_b0', 'efficientnet_v2_s', 'googlenet', 'inception_v3',
    'maxvit_t', 'mnasnet0_5', 'mobilenet_v2', 'regnet_x_400mf', 'regnet_y_400mf', 'resnext50_32x4d', 'swin_t',
    'swin_v2_t', 'vgg11', 'vgg11_bn', 'vit_b_32', 'wide_resnet50_2',
]  # fmt: skip
SIZES = dict(inception_v3=96, maxvit_t=224, vit_b_32=224)
ENTRIES = [*read_zoo(), *read_zoo(DETECTORS)]


def assert_equal(model, space, inputs, forward=None):
    """Within a thousandth, unless a reason is known."""
    for structure in (None, random_structure(space, 0.5)):
        counted = compared(model, space, structure, inputs, forward)
        equal = counted['flops'] == pytest.approx(counted['mmengine_flops'], rel=TOLERANCE)
        assert equal or reasons(model, space), counted


def check_torchvision(name):
    torch.manual_seed(0)
    size = SIZES.get(name, 64)
    model, inputs = torchvision.models.get_model(name).eval(), (torch.rand(1, 3, size, size),)
    assert_equal(model, build_search_space(model, inputs), inputs)


@pytest.mark.parametrize('name', SAMPLE)
def test_torchvision(name):
    check_torchvision(name)


def test_fused_attention_is_left_out():
    """As mmengine leaves it out: what a transformer of torchvision does beside its linear layers is not counted."""
    model = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5).eval()
    inputs = (torch.rand(1, 3, 16, 16),)
    space = build_search_space(model, inputs)
    assert_equal(model, space, inputs)
    assert any('attention' in operation for operation in space.uncounted.values())


@pytest.mark.sweep
@pytest.mark.parametrize('name', FAMILIES)
def test_torchvision_families(name):
    check_torchvision(name)


@pytest.mark.sweep
@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry.config)
def test_sweep(entry):
    config = load_config(entry.config)
    model = build(config).eval()
    example = example_of(model, entry.input_shape or infer_input_shape(config))
    space = build_search_space(model, example.inputs, forward=tensor_forward, flops_inputs=example.flops_inputs)
    assert_equal(model, space, example.flops_inputs or example.inputs, tensor_forward)
