"""Compare adapters with the modules that they stand in for, and search spaces with what they must hold."""

import copy
import logging
import warnings

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from helpers.partitioned import assert_partition
from helpers.tiny import assert_parity, random_mask, reasons
from mmdms.adapters.base import adapt
from mmdms.api import build_search_space
from mmdms.openmmlab.architecture import build_architecture, tensor_forward
from mmdms.openmmlab.export.subnet import build_subnet, subnet_config
from mmdms.registry import MODELS
from mmdms.slicing.slim import slim
from mmdms.space.search_space import SearchSpace
from mmdms.verification.float64 import float64
from mmdms.verification.parity import prepare_for_parity


def build(type, **config) -> nn.Module:
    """A backbone of mmpretrain."""
    init_default_scope('mmpretrain')
    return MODELS.build(dict(type=f'mmpretrain.{type}', **config))


POOLING = dict(type='GlobalAveragePooling')


def classifier(backbone, channels, neck=POOLING, head=None) -> nn.Module:
    """A classifier of 3 classes upon a backbone, by config, that gives out ``channels``."""
    init_default_scope('mmpretrain')
    head = head or dict(type='LinearClsHead', num_classes=3, in_channels=channels)
    config = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    model = build_architecture(config)
    model.architecture = config
    return model


def assert_same_forward(module, *inputs, train=True):
    """The adapted module computes what the module does, in float64 and with random norms."""
    module = prepare_for_parity(module)
    inputs = tree_map(lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, inputs)
    for mode in (False, True)[: 1 + train]:
        module.train(mode)
        expected = results(module, inputs)
        for masked in (False, True):
            other = copy.deepcopy(module)
            adapt(other, masked=masked)
            other.train(mode)
            for a, b in zip(expected, results(other, inputs), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def results(module, inputs):
    """Tensors that a module gives out, on a copy: batch norms write down what they see."""
    torch.manual_seed(0)
    with float64():
        found = tree_flatten(copy.deepcopy(module)(*tree_map(copy.deepcopy, inputs)))[0]
    return [x.detach() for x in found if isinstance(x, torch.Tensor)]


def noise(*shape):
    """The same values every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def space_of_classifier(model, size, seeds=3) -> SearchSpace:
    """Search space of a classifier whose random structures were compared with their masks, counted and rebuilt."""
    inputs = (noise(1, 3, size, size),)
    space = build_search_space(model, inputs, forward=tensor_forward)
    assert_partition(model, space)
    assert_parity(model, space, *inputs, forward=tensor_forward, seeds=seeds, tolerance=1e-10)
    mask = random_mask(space, seed=7)
    subnet = slim(model, space, space.structure(mask)).eval()
    assert space.cost('flops', mask) == flops(subnet, inputs)
    assert space.cost('params', mask) == sum(p.numel() for p in subnet.parameters())
    config = subnet_config(model.architecture, model, subnet, space, mask)
    rebuilt = build_subnet(**{key: value for key, value in config.items() if key != 'type'}).eval()
    rebuilt.load_state_dict(subnet.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(*inputs), subnet(*inputs))
    return space


def flops(model, inputs) -> int:
    """As mmengine counts them; of mmyolo's blocks of several branches as deployed, as mmyolo does."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if type(module).__name__ == 'RepVGGBlock' and type(module).__module__.startswith('mmyolo.'):
            module.switch_to_deploy()
    logger, level = MMLogger.get_instance('mmengine'), MMLogger.get_instance('mmengine').level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # mmengine traces with torch.jit
            return get_model_complexity_info(model, None, inputs, show_table=False, show_arch=False)['flops']
    finally:
        logger.setLevel(level)


def totals(space: SearchSpace) -> dict[str, list[int]]:
    """Elements of the units of every kind, sorted."""
    found: dict[str, list[int]] = {}
    for unit in space.units:
        found.setdefault(unit.kind, []).append(unit.total)
    return {kind: sorted(sizes) for kind, sizes in sorted(found.items())}


def assert_space(space: SearchSpace, channels, heads=(), depth=(), frozen=()):
    """The units are exactly these, and nothing but the output and modules of these names is frozen.

    Of heads and channels, 1 stands for one that is alone and therefore frozen.
    """
    expected = dict(
        channels=sorted(n for n in channels if n > 1), depth=sorted(depth), heads=sorted(n for n in heads if n > 1)
    )
    found, left = totals(space), {m: why for m, why in reasons(space).items() if not any(part in m for part in frozen)}
    alone = [module for module, why in left.items() if 'and one must stay' in why]
    assert len(alone) == len(left) == [*channels, *heads].count(1), left
    assert found == {kind: sizes for kind, sizes in expected.items() if sizes}, found
