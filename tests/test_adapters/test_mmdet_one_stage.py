"""mmdet's one-stage detectors and detecting transformers: models of its zoo, narrowed, as the real thing."""

import copy
import functools

import pytest
import torch
from helpers.adapted import assert_same_forward, flops, noise, totals
from helpers.tiny import Net, assert_parity, random_mask, reasons
from helpers.tiny import space_of as space_of_module
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from torch.utils._pytree import tree_flatten

from mmdms.api import build_search_space
from mmdms.openmmlab.algorithm import DMSAlgorithm
from mmdms.openmmlab.architecture import build_architecture, tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.export.subnet import build_subnet, subnet_config, without_pretrained
from mmdms.slicing.slim import slim
from mmdms.space.structure import Structure

pytest.importorskip('mmdet')

SIZE = 64
NARROW = dict(
    out_channels=16, in_channels=16, feat_channels=16, point_feat_channels=16, embed_dims=16, feedforward_channels=24,
    num_groups=4, num_heads=4, num_feats=8, num_layers=2, num_queries=5, num_dn_queries=4, stacked_convs=2,
    num_classes=3, num_csp_blocks=1,
)  # fmt: skip
R18 = dict(type='ResNet', depth=18, base_channels=8)
"""Widths 8, 16, 32, 64; two blocks per stage, of which the first of all but the first stage has another shape."""
R18_DEPTH = [1, 1, 1, 2]
POINTS = 'moves the samples of deformable attention; weighs the samples of deformable attention; '
DCN = 'moves the samples of a deformable convolution; '
GROUPED = dict(bbox_head=dict(norm_cfg=dict(type='GN', num_groups=4)))
LEVELS = dict(backbone=dict(R18), neck=dict(in_channels=[8, 16, 32, 64]))
THREE = dict(backbone=dict(R18), neck=dict(in_channels=[16, 32, 64]), bbox_head=dict(embed_dims=16))
LAST = dict(backbone=dict(R18), neck=dict(in_channels=[64]))
CSP = dict(backbone=dict(widen_factor=0.125), neck=dict(in_channels=[32, 64, 128]))
SSD = (24, 1280, 32, 16, 16, 16)

# Per model: config, what else is changed, depth units, and what stays, besides outputs.
ZOO = {
    'retinanet': ('retinanet/retinanet_r18_fpn_1x_coco.py', LEVELS, R18_DEPTH, {}),
    'fcos': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', LEVELS | GROUPED, R18_DEPTH, {}),
    'gfl': ('gfl/gfl_r50_fpn_1x_coco.py', LEVELS | GROUPED, R18_DEPTH, {}),
    'vfnet': (
        'vfnet/vfnet_r50_fpn_1x_coco.py',
        LEVELS | GROUPED,
        R18_DEPTH,
        {'bbox_head.vfnet_reg': 'aten.copy_.default writes through a view; '},
    ),
    'libra': (
        'libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py',
        dict(backbone=dict(R18), neck=[dict(in_channels=[8, 16, 32, 64]), {}]),
        R18_DEPTH,
        {},
    ),
    'rtmdet': ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', CSP, [1, 1, 1], {}),
    'ssd': (
        'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
        dict(
            backbone=dict(widen_factor=0.25),
            neck=dict(in_channels=SSD[:2], out_channels=SSD),
            bbox_head=dict(in_channels=SSD),
        ),
        [1, 1, 2, 2, 2, 3],
        {},
    ),
    'centernet': (
        'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py',
        dict(
            backbone=dict(R18),
            neck=dict(in_channels=64, num_deconv_filters=(32, 16, 8)),
            bbox_head=dict(in_channels=8),
        ),
        R18_DEPTH,
        {f'neck.deconv_layers.{i}.conv': DCN for i in (0, 2, 4)},
    ),
    'detr': ('detr/detr_r50_8xb2-150e_coco.py', LAST, R18_DEPTH, {}),
    'deformable-detr': ('deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', THREE, R18_DEPTH, POINTS),
    'dino': ('dino/dino-4scale_r50_8xb2-12e_coco.py', THREE, R18_DEPTH, POINTS),
}


def narrowed(config):
    """A config with the sizes of ``NARROW``."""
    if isinstance(config, dict):
        sized = {key: NARROW.get(key) if isinstance(value, int) and value else None for key, value in config.items()}
        return {key: narrowed(value) if sized[key] is None else sized[key] for key, value in config.items()}
    return type(config)(map(narrowed, config)) if isinstance(config, (list, tuple)) else config


def changed(config, changes):
    """A config with some values in it replaced."""
    if isinstance(changes, list):
        return [changed(*pair) for pair in zip(config, changes, strict=True)]
    if not isinstance(changes, dict) or config is None:
        return changes
    kept = {} if 'type' in changes and changes['type'] != config.get('type') else dict(config)
    return kept | {key: changed(config.get(key), value) for key, value in changes.items()}


@functools.cache
def model_of(name):
    path, changes, *_ = ZOO[name]
    config = load_config(f'mmdet::{path}')
    init_default_scope('mmdet')
    architecture = without_pretrained(config.model)
    if 'ResNet' in architecture['backbone']['type']:
        stages = architecture['backbone'].get('out_indices', (0, 1, 2, 3))
        changes = changes | dict(backbone=dict(R18, out_indices=stages))
    parts = ('neck', 'bbox_head', 'encoder', 'decoder', 'positional_encoding', 'num_queries', 'dn_cfg')
    architecture |= narrowed({part: architecture[part] for part in parts if part in architecture})
    architecture = changed(architecture, changes)
    torch.manual_seed(0)
    model = build_architecture(architecture).eval()
    model.architecture = architecture
    return model


@functools.cache
def space_of(name):
    return build_search_space(model_of(name), noise(1, 3, SIZE, SIZE), forward=tensor_forward)


class OnImages(nn.Module):
    """A detector as mmengine can count it: some ask for the sizes of their images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return tensor_forward(self.model)(images)


def outputs(model, image):
    with torch.no_grad():
        return [x for x in tree_flatten(tensor_forward(model)(image))[0] if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize('name', ZOO)
def test_searched_sliced_counted_and_rebuilt(name):
    model, space, (_, _, depth, kept) = model_of(name), space_of(name), ZOO[name]
    image = noise(1, 3, SIZE, SIZE)
    assert totals(space)['depth'] == depth
    found = reasons(space)
    assert found == kept if isinstance(kept, dict) else POINTS in found.values()
    assert space.prunable_fraction('flops') >= 0.9  # 0.95 and more at full width, where outputs weigh less
    assert_parity(model, space, image, forward=tensor_forward, tolerance=1e-8)
    mask = random_mask(space, seed=7)
    subnet = slim(model, space, space.structure(mask)).eval()
    for network, kept_elements in ((model, torch.ones(space.num_elements)), (subnet, mask)):
        assert float(space.cost('flops', kept_elements)) == pytest.approx(flops(OnImages(network), (image,)), rel=0.01)
        assert space.cost('params', kept_elements) == sum(p.numel() for p in network.parameters())
    config = subnet_config(model.architecture, model, subnet, space, mask)
    rebuilt = build_subnet(**{key: value for key, value in config.items() if key != 'type'}).eval()
    rebuilt.load_state_dict(subnet.state_dict())
    for a, b in zip(outputs(subnet, image), outputs(rebuilt, image), strict=True):
        torch.testing.assert_close(a, b)


def batch():
    """Two images with two boxes and with one."""
    from mmdet.structures import DetDataSample

    boxes = torch.tensor([[4.0, 4, 36, 44], [20, 24, 60, 55]])
    known = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (SIZE, SIZE))
    samples = []
    for count in (2, 1):
        sample = DetDataSample(metainfo=dict(known, scale_factor=(1.0, 1.0), img_id=count))
        sample.gt_instances = InstanceData(bboxes=boxes[:count], labels=torch.arange(count))
        samples.append(sample)
    return noise(2, 3, SIZE, SIZE), samples


TRAINED = ['retinanet', 'fcos', 'gfl', 'rtmdet', 'ssd', 'detr', 'deformable-detr', 'dino']


@pytest.mark.parametrize('name', TRAINED)
def test_trains_with_its_own_losses(name):
    """The supernet under soft masks and its budget, and a subnet: once each, and all gradients are finite."""
    budget = dict(type='DMSMutator', budget=dict(metric='flops', target=0.5))
    algorithm = DMSAlgorithm(copy.deepcopy(model_of(name).architecture), budget, (3, SIZE, SIZE))
    space = space_of(name)
    subnet = slim(model_of(name), space, space.structure(random_mask(space, seed=5)))
    for network in (algorithm, subnet):
        network.train()
        losses = network(*batch(), mode='loss')
        assert ('budget_loss' in losses) == (network is algorithm)
        masks = algorithm.mutator.masks.bank.values
        masks.retain_grad()
        network.parse_losses(losses)[0].backward()
        grads = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
        assert any('backbone' in key for key in grads) and any('bbox_head' in key for key in grads)
        assert all(bool(grad.isfinite().all()) for grad in grads.values())
    assert bool(masks.grad.isfinite().all()) and int((masks.grad != 0).sum()) > 0.25 * space.num_elements


def layers():
    """Modules whose forward an adapter replaces, with inputs."""
    from mmcv.cnn import NonLocal2d
    from mmcv.ops import MultiScaleDeformableAttention
    from mmdet.models.backbones.pvt import AbsolutePositionEmbedding
    from mmdet.models.layers import SinePositionalEncoding
    from mmdet.models.layers.transformer.utils import ConditionalAttention
    from mmdet.models.necks.ssd_neck import L2Norm

    tokens, others, image = noise(2, 5, 16), noise(2, 7, 16), noise(2, 8, 4, 6)
    hidden = noise(2, 7) > 1
    for options in (dict(), dict(bias=False), dict(kdim=12, vdim=20), dict(add_bias_kv=True)):
        module = nn.MultiheadAttention(16, 4, batch_first=True, **options)
        key, value = noise(2, 7, options.get('kdim', 16)), noise(2, 7, options.get('vdim', 16))
        yield module, tokens, key, value
        yield module, tokens, key, value, None, False
        if not module.add_zero_attn and module.bias_k is None:
            yield module, tokens, key, value, hidden, True, noise(8, 5, 7) > 1
            yield module, tokens, key, value, None, False, noise(5, 7), False
    yield nn.MultiheadAttention(16, 4), noise(5, 16), noise(7, 16), noise(7, 16)
    yield SinePositionalEncoding(4, normalize=True), None, image
    yield SinePositionalEncoding(4), noise(2, 4, 6) > 0
    for inside in (dict(), dict(cross_attn=True), dict(cross_attn=True, keep_query_pos=True)):
        yield ConditionalAttention(16, 4, **inside), tokens, others, tokens * 2, tokens * 3, others * 2
    for mode in ('embedded_gaussian', 'dot_product', 'gaussian'):
        yield NonLocal2d(8, reduction=1 if mode == 'gaussian' else 2, mode=mode, zeros_init=False), image
    yield L2Norm(8), image
    yield AbsolutePositionEmbedding((3, 3), 16), noise(2, 24, 16), (4, 6)
    shapes, starts = torch.tensor([[3, 4], [1, 2]]), torch.tensor([0, 12])
    for coordinates in (2, 4):
        places = noise(2, 5, 2, coordinates).sigmoid()
        arguments = (tokens, None, noise(2, 14, 16), None, tokens * 2, noise(2, 14) > 1, places, shapes, starts)
        module = MultiScaleDeformableAttention(16, 4, 2, 3, dropout=0.0, batch_first=True)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)  # offsets start as whole pixels and weights equal
        yield module, *arguments


def test_adapters_compute_the_same():
    for module, *inputs in layers():
        print(type(module).__name__)  # shown if it fails
        assert_same_forward(module, *inputs)


def test_attention_to_others():
    """Heads, both widths, and both streams: keys are as wide as what the queries are added to is not."""
    net = Net(
        lambda n, x: n.out(n.read(n.attention(n.a(x), n.b(x), n.b(x), need_weights=False)[0])),
        a=nn.Linear(3, 16), b=nn.Linear(3, 12), out=nn.Linear(6, 2), read=nn.Linear(16, 6),
        attention=nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True),
    )  # fmt: skip
    space = space_of_module(net, noise(1, 5, 3))
    names = {unit.name: (unit.kind, unit.total) for unit in space.units}
    assert names == {
        'a': ('channels', 16), 'b': ('channels', 12), 'read': ('channels', 6),
        'attention.num_heads': ('heads', 4), 'attention.qk_dims': ('channels', 4),
        'attention.v_dims': ('channels', 4), 'attention.out_proj': ('channels', 16),
    }  # fmt: skip
    kept = {'attention.num_heads': [1, 3], 'attention.v_dims': [0, 2, 3], 'a': [0, 5, 6]}
    structure = Structure(space.units, [kept.get(unit.name, range(unit.total)) for unit in space.units])
    attention = slim(net, space, structure).attention
    assert attention.q_proj_weight.shape == (2 * 4, 3) and attention.out_proj.weight.shape == (16, 2 * 3)
    assert (attention.embed_dim, attention.kdim, attention.num_heads, attention.v_dims) == (3, 12, 2, 3)
    assert not [reason for name, reason in reasons(space).items() if 'attention' in name]


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('version', ['DCN', 'DCNv2'])
def test_deformable_convolutions(version, groups):
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    kind = dict(DCN=DeformConv2dPack, DCNv2=ModulatedDeformConv2dPack)[version]
    middle = kind(6, 8, 3, padding=1, deform_groups=groups)
    nn.init.normal_(middle.conv_offset.weight, std=0.3)  # they start at zero
    net = nn.Sequential(nn.Conv2d(3, 6, 1), middle, nn.ReLU(), nn.Conv2d(8, 2, 1))
    space = space_of_module(net, noise(1, 3, 6, 6))
    if groups == 1:
        assert totals(space) == {'channels': [6, 8]} and space.uncounted == {'1': 'deformable convolution'}
        subnet = slim(net, space, Structure(space.units, [[0, 4], [1, 2, 7]]))
        assert subnet[1].weight.shape == (3, 2, 3, 3) and (subnet[1].in_channels, subnet[1].out_channels) == (2, 3)
    else:
        assert not space.units and 'cannot see' in str(reasons(space))


def test_the_norm_of_ssd():
    """Channels of a pixel are divided by the length of those that stay."""
    from mmdet.models.necks.ssd_neck import L2Norm

    net = nn.Sequential(nn.Conv2d(3, 6, 1), L2Norm(6), nn.Conv2d(6, 2, 1))
    assert totals(space_of_module(net, noise(1, 3, 4, 4))) == {'channels': [6]}
