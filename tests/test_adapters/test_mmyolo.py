"""mmyolo: every family of its zoo, narrowed, is searched, sliced, rebuilt, deployed and trained as the real thing."""

import copy
import functools

import pytest
import torch
from helpers.adapted import assert_same_forward, flops, noise, space_of_classifier, totals
from helpers.tiny import random_mask, reasons
from helpers.tiny import space_of as space_of_module
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.utils._pytree import tree_flatten

from mmdms.masks.channel_masks import Masks
from mmdms.openmmlab.algorithm import DMSAlgorithm
from mmdms.openmmlab.architecture import build_architecture, tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.export.subnet import without_pretrained
from mmdms.slicing.slim import slim
from mmdms.space.structure import Structure
from mmdms.verification.float64 import float64
from mmdms.verification.parity import prepare_for_parity

pytest.importorskip('mmyolo')

SIZE = 64
DFL = {'bbox_head.head_module': 'is normalised by aten._softmax.default; '}

# Per family: a config, the factor of its widths, its depth units, and modules that have to keep something.
# Depth units by hand: the backbone's deepen_factor times 3, 6, 9, 3 (YOLOv5), 3, 6, 6, 3 (YOLOv8, RTMDet, PPYOLOE),
# 3, 9, 9, 3 (YOLOX); stages of the necks, and the last of YOLOX and RTMDet, have no identity. YOLOv6 has 6, 12, 18, 6
# blocks, in the neck 12: of every stage the first, which has an identity where the width stays, then the rest;
# in its larger models two make one bottleneck.
FAMILIES = {
    'yolov5-ins': ('yolov5/ins_seg/yolov5_ins_n-v61_syncbn_fast_8xb16-300e_coco_instance.py', 0.125, [1, 2, 3, 1], {}),
    'yolov6': (
        'yolov6/yolov6_n_syncbn_fast_8xb32-300e_coco.py',
        0.125,
        [*(1, 1), *(1, 3), *(1, 5), *(1, 1), 3, 3, *(1, 3), *(1, 3)],
        {},
    ),
    'yolov6-m': (
        'yolov6/yolov6_v3_m_syncbn_fast_8xb32-300e_coco.py',
        0.125,
        [*(1, 1), *(1, 2), *(1, 4), *(1, 1), *(1, 2), *(1, 2), *(1, 2), *(1, 2)],
        DFL,
    ),
    'yolov7': ('yolov7/yolov7_l_syncbn_fast_8x16b-300e_coco.py', 0.125, [], {}),
    'yolov7-p6': ('yolov7/yolov7_w-p6_syncbn_fast_8x16b-300e_coco.py', 0.125, [], {}),
    'yolov8': ('yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py', 0.125, [1, 2, 2, 1], DFL),
    'yolox': ('yolox/yolox_nano_fast_8xb8-300e_coco.py', 0.125, [1, 3, 3], {}),
    'rtmdet': ('rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py', 0.125, [1, 1, 1], {}),
    'rtmdet-ins': ('rtmdet/rtmdet-ins_s_syncbn_fast_8xb32-300e_coco.py', 0.125, [1, 2, 2], {}),
    'ppyoloe': ('ppyoloe/ppyoloe_plus_s_fast_8xb8-80e_coco.py', 0.125, [1, 2, 2, 1], DFL),
}
REPARAMETERISED = ('yolov6', 'yolov6-m', 'yolov7', 'ppyoloe')
INFERENCE_ONLY = ('rtmdet-ins',)  # mmyolo has no loss for it


@functools.cache
def family(name):
    """Config of a family, and its model with few channels."""
    path, widen, *_ = FAMILIES[name]
    config = load_config(f'mmyolo::{path}')
    init_default_scope('mmyolo')
    architecture = without_pretrained(config.model)
    for part in (architecture['backbone'], architecture['neck'], architecture['bbox_head']['head_module']):
        part['widen_factor'] = widen
    torch.manual_seed(0)
    model = build_architecture(architecture, config.get('data_preprocessor')).eval()
    model.architecture = architecture
    return config, model


@functools.cache
def space_of(name):
    """Search space, verified; random structures were compared with their masks, counted and rebuilt."""
    return space_of_classifier(family(name)[1], size_of(name))


def size_of(name):
    """The deepest map of four levels has a stride of 64: keep more than one pixel of it."""
    return 2 * SIZE if 'p6' in name else SIZE


def outputs(model, *inputs):
    with torch.no_grad(), float64():
        return [x for x in tree_flatten(tensor_forward(model)(*inputs))[0] if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize('name', FAMILIES)
def test_searched_sliced_and_rebuilt(name):
    space, (_, _, depth, kept) = space_of(name), FAMILIES[name]
    assert totals(space).get('depth', []) == sorted(depth)
    assert reasons(space) == kept
    assert space.prunable_fraction('flops') >= 0.95


def blocks():
    from mmyolo.models.dense_heads.yolov7_head import YOLOv7p6HeadModule
    from mmyolo.models.layers.yolo_bricks import BottleRep, CSPLayerWithTwoConv, RepVGGBlock

    init_default_scope('mmyolo')
    image, block = noise(2, 6, 8, 8), dict(type='RepVGGBlock', act_cfg=dict(type='ReLU', inplace=True))
    yield 'CSPLayerWithTwoConv', CSPLayerWithTwoConv(6, 10, num_blocks=2), image
    yield 'CSPLayerWithTwoConv without identity', CSPLayerWithTwoConv(6, 10, add_identity=False), image
    yield 'RepVGGBlock', RepVGGBlock(6, 6), image
    yield 'RepVGGBlock with stride', RepVGGBlock(6, 10, stride=2, use_alpha=True), image
    yield 'RepVGGBlock deployed', RepVGGBlock(6, 6, deploy=True), image
    yield 'BottleRep', BottleRep(6, 6, block, adaptive_weight=True), image
    yield 'BottleRep without identity', BottleRep(6, 10, block), image
    for aux in (True, False):
        widths = dict(in_channels=[8, 16], main_out_channels=[5, 7], aux_out_channels=[4, 9])
        head = YOLOv7p6HeadModule(2, num_base_priors=3, featmap_strides=[8, 16], use_aux=aux, **widths)
        yield f'YOLOv7p6HeadModule, auxiliary {aux}', head, (noise(2, 8, 8, 8), noise(2, 16, 4, 4))


def test_adapters_compute_the_same():
    for name, module, inputs in blocks():
        print(name)  # shown if it fails
        for parameter in module.parameters():
            if parameter.numel() == 1:
                torch.nn.init.constant_(parameter, 0.7)  # factors start at 1, which would hide them
        assert_same_forward(module, inputs)


def test_both_halves_of_a_stage_shrink_apart():
    """The half that passes is read by one layer, the other by the blocks too: 5 channels each, 3 of 5 and 1 of 5."""
    from mmyolo.models.layers.yolo_bricks import CSPLayerWithTwoConv

    model = torch.nn.Sequential(CSPLayerWithTwoConv(3, 10, num_blocks=2), torch.nn.Conv2d(10, 2, 1))
    space = space_of_module(model, noise(1, 3, 8, 8))
    # Two halves, two widths inside the blocks, and what the last convolution of the stage gives out.
    assert totals(space) == {'channels': [5, 5, 5, 5, 10], 'depth': [2]}
    names = [unit.name for unit in space.units]
    passing, worked = names.index('0.main_conv.conv'), names.index('0.main_conv.conv#2')
    kept = [range(unit.total) for unit in space.units]
    kept[passing], kept[worked] = [0, 2, 4], [3]
    subnet = slim(model, space, Structure(space.units, kept))
    assert subnet[0].mid_channels == 3
    assert subnet[0].main_conv.conv.out_channels == 3 + 1
    assert subnet[0].final_conv.conv.in_channels == 3 + 1 + 1 + 1


@pytest.mark.parametrize('name', REPARAMETERISED)
def test_a_subnet_can_be_deployed(name):
    from mmyolo.models import RepVGGBlock

    model, space = family(name)[1], space_of(name)
    subnet = prepare_for_parity(slim(model, space, space.structure(random_mask(space, seed=5))))
    deployed = copy.deepcopy(subnet)
    with float64():
        for module in deployed.modules():
            if isinstance(module, RepVGGBlock):
                module.switch_to_deploy()
    assert not any('rbr_dense' in key for key in deployed.state_dict())
    image = noise(1, 3, SIZE, SIZE).double()
    for expected, found in zip(outputs(subnet, image), outputs(deployed, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    # Branches that are fused cost nothing, as mmyolo counts.
    mask = random_mask(space, seed=5)
    assert flops(deployed.float(), (image.float(),)) == space.cost('flops', mask)
    assert set(space.uncounted.values()) == {'branch or norm that a deployment fuses'}


def batch(config, model, size):
    """Two images, with two boxes and with one, through the collate function and data preprocessor of a config."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmyolo.datasets.utils import yolov5_collate

    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.4, 0.9, 0.8]]) * size
    samples = []
    for count in (2, 1):
        instances = InstanceData(bboxes=HorizontalBoxes(boxes[:count]), labels=torch.arange(count))
        if 'ins' in config.model.bbox_head.type.lower():
            instances.masks = torch.ones(count, size, size)
        image = (noise(3, size, size) * 60 + 120).clamp(0, 255)
        samples.append(dict(inputs=image, data_samples=DetDataSample(gt_instances=instances)))
    collate = {key: value for key, value in config.train_dataloader.collate_fn.items() if key != 'type'}
    preprocessor = copy.deepcopy(model.data_preprocessor)
    if not collate.get('use_ms_training'):
        preprocessor.batch_augments = None
    for augment in preprocessor.batch_augments or []:
        augment.random_size_range, augment.size_divisor = (size, size + 1), size  # else up to 768 pixels
    return preprocessor(yolov5_collate(samples, **collate), training=True)


def losses_of(model, data):
    """Losses in training mode, one copy of the batch per call: some heads write into their boxes."""
    model.train().zero_grad()
    return model(**copy.deepcopy(data), mode='loss')


def finite_gradients(model, losses):
    model.parse_losses(losses)[0].backward()
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert found and all(bool(grad.isfinite().all()) for grad in found.values())
    return found


@pytest.mark.parametrize('name', FAMILIES)
def test_masks_in_training_mode(name):
    """Heads give out more in training, branches that only training has among it: hard masks equal the slice there."""
    (_, model), space, size = family(name), space_of(name), size_of(name)
    structure = space.structure(random_mask(space, seed=5))
    masked = prepare_for_parity(model)
    subnet = slim(masked, space, structure)
    Masks(masked, space).set(space.mask(structure).double())
    image = noise(2, 3, size, size).double()
    extra = {'yolov7-p6': 12, 'yolov8': 3, 'yolov6': 3, 'yolov6-m': 3, 'ppyoloe': 3}.get(name, 0)  # maps
    assert len(outputs(masked.train(), image)) == len(outputs(subnet, image)) + extra
    for expected, found in zip(outputs(masked, image), outputs(subnet.train(), image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize('name', [name for name in FAMILIES if name not in INFERENCE_ONLY])
def test_trains_with_its_own_losses(name):
    """The supernet under soft masks, and the subnet; both once, all gradients finite."""
    (config, model), space = family(name), space_of(name)
    for key in ('epoch', 'iter'):
        MessageHub.get_current_instance().update_info(key, 0)  # as the Runner tells: assigners ask for it
    data = batch(config, model, 2 * SIZE)  # assigners want the nine nearest cells of every level
    masked = copy.deepcopy(model)
    subnet = slim(masked, space, space.structure(random_mask(space, seed=5)))
    values = torch.linspace(0.3, 1, space.num_elements).requires_grad_()
    Masks(masked, space).set(values)
    for network in (masked, subnet):
        reached = finite_gradients(network, losses_of(network, data))
        assert any('backbone' in key for key in reached)
    assert bool(values.grad.isfinite().all())
    # Levels without a box teach their branches of the head nothing. All else is reached.
    reached = torch.zeros(len(space.units)).index_add(0, space.unit_of_element, values.grad.abs())
    unreached = [unit.name for unit, total in zip(space.units, reached.tolist(), strict=True) if total == 0]
    assert not [name for name in unreached if not name.startswith('bbox_head.')]


@pytest.mark.parametrize('name', ['yolov7-p6', 'yolov8'])
def test_searched_by_the_algorithm(name):
    """FLOPs are those of the input shape, without what only training has; the detector's losses come with ours."""
    config, model = family(name)
    shape = (3, 192, 256)
    mutator = dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.5))
    algorithm = DMSAlgorithm(copy.deepcopy(model), mutator, shape)
    space = algorithm.mutator.space
    assert space.cost('flops', torch.ones(space.num_elements)) == flops(model.eval(), (noise(1, *shape),))
    algorithm.mutator.set_progress(0.5)
    losses = losses_of(algorithm, batch(config, model, 2 * SIZE))
    assert {'loss_cls', 'loss_bbox', 'budget_loss'} <= set(losses) and float(losses['budget_loss']) > 0
    assert any('backbone' in key for key in finite_gradients(algorithm, losses))
    assert algorithm.mutator._gradient is not None
