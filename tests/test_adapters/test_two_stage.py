"""mmdet's two-stage detectors, RoI heads included: models of its zoo, narrowed."""

import math
import sys
from pathlib import Path

import pytest
import torch
from helpers.adapted import flops, noise
from helpers.tiny import Net, assert_parity, conv, random_mask, reasons
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils._pytree import tree_flatten

from mmdms.adapters.base import adapt
from mmdms.api import build_search_space
from mmdms.openmmlab.architecture import build_architecture, tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.detection import FEW_PROPOSALS, SIDES, has_proposals, spread_boxes
from mmdms.openmmlab.example import TRACE_SIDES, example_of
from mmdms.openmmlab.export.subnet import build_subnet, subnet_config, without_pretrained
from mmdms.openmmlab.model_space import build_model_space
from mmdms.slicing.slim import slim

sys.path.append(str(Path(__file__).parents[2] / 'benchmarks'))  # at the end: tools/test.py must hide nothing

from sweep.training import training_step  # noqa: E402

pytest.importorskip('mmdet')

SHAPE = (3, 160, 192)
NARROW = dict(out_channels=16, in_channels=16, feat_channels=16, conv_out_channels=16, fc_out_channels=24)
ZOO = {
    'faster': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'cascade': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
}


def narrowed(part):
    """A config with fewer channels everywhere, and few classes."""
    if isinstance(part, dict):
        part = {key: narrowed(value) for key, value in part.items()}
        part.update({key: value for key, value in NARROW.items() if isinstance(part.get(key), int)})
        return part | dict(num_classes=3) if 'num_classes' in part else part
    return [narrowed(item) for item in part] if isinstance(part, (list, tuple)) else part


@pytest.fixture(scope='module', params=ZOO)
def detector(request):
    """A detector with its config and search space."""
    config = load_config(f'mmdet::{ZOO[request.param]}')
    init_default_scope('mmdet')
    architecture = narrowed(without_pretrained(config.model.to_dict()))
    architecture['backbone'].update(depth=18, base_channels=8)
    architecture['neck'].update(in_channels=[8, 16, 32, 64])
    architecture['test_cfg']['rpn']['max_per_img'] = 30
    torch.manual_seed(0)
    model = build_architecture(architecture)
    model.init_weights()
    return request.param, config, architecture, model, build_model_space(model, SHAPE)


def test_every_layer_but_the_outputs_is_searched(detector):
    name, _, _, model, space = detector
    assert space.prunable_fraction('flops') > 0.95
    totals = {unit.name: unit.total for unit in space.units}
    # Features pass the pooling: what the pyramid gives out is one unit, read by both heads.
    assert totals['neck.lateral_convs.0.conv'] == 16 and 'rpn_head.rpn_conv' in totals
    assert [u.total for u in space.units if u.kind == 'depth'] == [2, 1, 1, 1]
    heads = ['roi_head.bbox_head'] if name != 'cascade' else [f'roi_head.bbox_head.{i}' for i in range(3)]
    assert all(totals[f'{head}.shared_fcs.0'] == totals[f'{head}.shared_fcs.1'] == 24 for head in heads)
    frozen = {module.rpartition('.')[2] for module in reasons(space)}
    assert frozen <= {'rpn_cls', 'rpn_reg', 'fc_cls', 'fc_reg', 'conv_logits'}, space.frozen


def test_sliced_and_masked_are_equal(detector):
    _, _, _, model, space = detector
    inputs = example_of(model, SHAPE).inputs
    assert inputs[0].shape[-1] == TRACE_SIDES[0] and len(inputs[1]) == FEW_PROPOSALS
    assert_parity(model, space, *inputs, forward=tensor_forward, seeds=3, tolerance=1e-10)


def test_flops_count_at_the_real_size_with_all_proposals(detector):
    _, _, _, model, space = detector
    inputs = example_of(model, SHAPE).flops_inputs
    assert inputs[0].shape[1:] == SHAPE and len(inputs[1]) == 30
    mask = random_mask(space, seed=3)
    subnet = slim(model, space, space.structure(mask)).eval()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = subnet

        def forward(self, images, proposals):
            return tree_flatten(tensor_forward(self.detector)(images, proposals))[0]

    assert space.cost('flops', mask) == pytest.approx(flops(Whole(), inputs), rel=0.01)
    assert space.cost('params', mask) == sum(p.numel() for p in subnet.parameters())


def test_rebuilt_and_trained_with_its_own_losses(detector):
    name, config, architecture, model, space = detector
    mask = random_mask(space, seed=7)
    subnet = slim(model, space, space.structure(mask))
    found = subnet_config(architecture, model, subnet, space, mask)
    rebuilt = build_subnet(**{key: value for key, value in found.items() if key != 'type'})
    rebuilt.load_state_dict(subnet.state_dict())
    inputs = example_of(model, SHAPE).inputs
    with torch.no_grad():
        for a, b in zip(*(tree_flatten(tensor_forward(m.eval())(*inputs))[0] for m in (rebuilt, subnet)), strict=True):
            torch.testing.assert_close(a, b)
    config.default_scope = 'mmdet'
    loss, refusal = training_step(subnet, config, (3, 128, 128))
    assert math.isfinite(loss) and loss > 0 and not refusal


# ---- Pooling --------------------------------------------------------------------------


def extractor():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    layer = dict(type='RoIAlign', output_size=3, sampling_ratio=2)
    return SingleRoIExtractor(roi_layer=layer, out_channels=4, featmap_strides=[4, 8, 16])


def boxes(*sides):
    return torch.tensor([[0, 5.0, 5.0, 5.0 + side, 5.0 + side] for side in sides])


@pytest.mark.parametrize('sides', [(30, 300, 150, 40), (30, 40), (500,), ()])
def test_extractor_is_that_of_mmdet(sides):
    """Boxes of all levels, of some, and none."""
    levels = [noise(1, 4, size, size).requires_grad_() for size in (16, 8, 4)]
    plain, adapted = extractor(), extractor()
    adapt(adapted, masked=True)
    found = [module(levels, boxes(*sides).view(-1, 5)) for module in (plain, adapted)]
    assert type(adapted) is not type(plain)
    torch.testing.assert_close(*found, rtol=0, atol=0)
    # Every level takes part, whatever the boxes: distributed training needs gradients of all weights.
    assert all(grad is not None for grad in torch.autograd.grad(found[1].sum(), levels))


def test_channels_pass_the_pooling():
    from mmcv.ops import RoIAlign

    pool = RoIAlign(3, 1.0)
    rois = torch.tensor([[0, 1.0, 1.0, 5.0, 6.0]])
    net = Net(lambda net, x: net.b(net.pool(net.a(x), rois.to(x))), a=conv(3, 8, 3), pool=pool, b=conv(8, 2))
    space = build_search_space(net, noise(1, 3, 9, 9))
    assert {unit.name: unit.total for unit in space.units} == {'a': 8}
    assert_parity(net, space, noise(1, 3, 9, 9))


def test_given_proposals():
    found = spread_boxes(50, 100, 200)
    assert found.shape == (50, 4)
    sides = (found[:, 2:] - found[:, :2]).round()
    assert sides[:, 0].tolist() == sides[:, 1].tolist() == list(SIDES) * 10
    centres = (found[:, :2] + found[:, 2:]) / 2
    assert (centres.min(0).values >= torch.tensor([40.0, 20.0])).all()
    assert (centres.max(0).values <= torch.tensor([160.0, 80.0])).all()
    assert len(torch.unique(centres.round(), dim=0)) == 50
    assert not has_proposals(nn.Conv2d(1, 1, 1))
