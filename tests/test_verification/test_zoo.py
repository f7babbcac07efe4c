"""Networks of the zoo, as their configs build them: traced, sliced, compared, counted."""

import logging
import warnings
from dataclasses import dataclass

import pytest
import torch
from helpers.partitioned import assert_partition
from helpers.tiny import image, random_mask
from mmengine.analysis import get_model_complexity_info
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from mmdms.api import build_search_space
from mmdms.openmmlab.architecture import build_architecture, tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.slicing.slim import slim
from mmdms.space.search_space import SearchSpace
from mmdms.verification.parity import check_parity
from mmdms.verification.verifier import random_structure

# Config, input size (VGG's classifier takes no other), blocks that can go per stage.
NETWORKS = {
    'resnet18': ('resnet/resnet18_8xb16_cifar10.py', 32, [2, 1, 1, 1]),
    'resnet50': ('resnet/resnet50_8xb32_in1k.py', 64, [2, 3, 5, 2]),
    'vgg16bn': ('vgg/vgg16bn_8xb32_in1k.py', 224, []),
    'mobilenetv2': ('mobilenet_v2/mobilenet-v2_8xb32_in1k.py', 64, [1, 2, 3, 2, 2]),
    'seresnet50': ('seresnet/seresnet50_8xb32_in1k.py', 64, [2, 3, 5, 2]),
    'densenet121': ('densenet/densenet121_4xb256_in1k.py', 64, []),
    'regnetx400mf': ('regnet/regnetx-400mf_8xb128_in1k.py', 64, [1, 6, 11]),
    # Two widths share a container: 80 and 112 channels, two blocks each.
    'efficientnetb0': ('efficientnet/efficientnet-b0_8xb32_in1k.py', 64, [1, 1, 2, 2, 3]),
}


@dataclass
class Traced:
    name: str
    model: nn.Module
    space: SearchSpace
    inputs: tuple


@pytest.fixture(scope='session', params=NETWORKS)
def network(request):
    config, size, _ = NETWORKS[request.param]
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = build_architecture(load_config(f'mmpretrain::{config}').model)
    inputs = (image(size=size),)
    # VGG at 224 is slow in float64, and the parity below verifies it as well.
    space = build_search_space(model, inputs, forward=tensor_forward, verify=request.param != 'vgg16bn')
    return Traced(request.param, model, space, inputs)


def test_nothing_but_the_image_and_the_classes_is_frozen(network):
    classes = 10 if network.name == 'resnet18' else 1000
    found = [(f.reason, f.elements) for f in network.space.frozen]
    assert found == [('reaches an output of the network', classes), ('reads an input of the network or a constant', 3)]
    assert_partition(network.model, network.space)


def test_prunable_fraction(network):
    assert network.space.prunable_fraction('flops') >= 0.95


def test_depth_units(network):
    found = [unit.total for unit in network.space.units if unit.kind == 'depth']
    assert found == NETWORKS[network.name][2]


def test_parity_of_half_the_network(network):
    structure = random_structure(network.space, 0.5)
    parity = check_parity(network.model, network.space, structure, network.inputs, tensor_forward)
    assert parity.max_abs_output > 0
    assert parity.max_abs_diff <= 1e-8 * parity.max_abs_output


def test_parity_of_a_random_structure(network):
    if network.name == 'vgg16bn':
        pytest.skip('half the network is enough at this size')
    structure = network.space.structure(random_mask(network.space, 1))
    parity = check_parity(network.model, network.space, structure, network.inputs, tensor_forward)
    assert parity.max_abs_diff <= 1e-8 * parity.max_abs_output
    assert parity.max_abs_output > 0


@pytest.mark.parametrize('seed', [None, 1])
def test_costs_equal_mmengine(network, seed):
    space = network.space
    mask = torch.ones(space.num_elements).bool() if seed is None else random_mask(space, seed)
    subnet = slim(network.model, space, space.structure(mask)).eval()
    logger, level = MMLogger.get_instance('mmengine'), MMLogger.get_instance('mmengine').level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # mmengine traces with torch.jit
            counted = get_model_complexity_info(subnet, None, network.inputs, show_table=False, show_arch=False)
    finally:
        logger.setLevel(level)
    assert space.cost('flops', mask) == counted['flops']
    assert space.cost('params', mask) == sum(p.numel() for p in subnet.parameters())
