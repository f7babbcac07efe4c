"""Without all of its removable blocks a network is the one in which identities stand in their place."""

import copy
from dataclasses import dataclass

import pytest
import torch
from helpers.adapted import POOLING, classifier, noise
from torch import nn

from mmdms.api import build_search_space
from mmdms.openmmlab.architecture import tensor_forward
from mmdms.slicing.slim import slim
from mmdms.verification.parity import prepare_for_parity


@dataclass
class Family:
    """A small network, and its removable blocks in the order in which they run; those that go together in a tuple."""

    backbone: dict
    channels: int
    size: int
    blocks: list
    neck: dict | None = None

    def build(self):
        return classifier(self.backbone, self.channels, neck=self.neck)

    def inputs(self):
        return (noise(1, 3, self.size, self.size),)

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Names of blocks, all in tuples."""
        listed = [(block,) if isinstance(block, str) else block for block in self.blocks]
        return [tuple(f'backbone.{name}' for name in group) for group in listed]


def resnet(depth, *stages, kind='ResNet', **options):
    """A narrow ResNet of one to four stages."""
    sizes = dict(stem_channels=4, base_channels=4, num_stages=len(stages), out_indices=(len(stages) - 1,))
    return dict(type=kind, depth=depth, strides=stages, dilations=(1,) * len(stages), **sizes, **options)


META = dict(layers=[1, 2, 1, 1], embed_dims=[4, 8, 12, 16], mlp_ratios=[2, 2, 2, 2], layer_scale_init_value=1e-5)
META_BLOCKS = ['network.0.0', 'network.2.0', 'network.2.1', 'network.4.0', 'network.6.0']
VIT = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16)
INVERTED = ['layer1.0', 'layer2.1', 'layer3.1', 'layer3.2', 'layer4.1', 'layer4.2', 'layer4.3']
INVERTED += ['layer5.1', 'layer5.2', 'layer6.1', 'layer6.2']

FAMILIES = {
    'basic': Family(resnet(18, 1, 2), 8, 32, ['layer1.0', 'layer1.1', 'layer2.1'], POOLING),
    'bottleneck': Family(resnet(50, 1), 16, 32, ['layer1.1', 'layer1.2'], POOLING),
    'multi-scale': Family(
        resnet(50, 1, kind='Res2Net', scales=3, base_width=6), 16, 32, ['layer1.1', 'layer1.2'], POOLING
    ),
    'split attention': Family(resnet(50, 1, kind='ResNeSt'), 16, 32, ['layer1.1', 'layer1.2'], POOLING),
    'inverted residual': Family(dict(type='MobileNetV2', widen_factor=0.1), 1280, 32, INVERTED, POOLING),
    'convnext': Family(
        dict(type='ConvNeXt', arch=dict(depths=[1, 1, 2, 1], channels=[4, 8, 12, 16])),
        16,
        32,
        ['stages.0.0', 'stages.1.0', 'stages.2.0', 'stages.2.1', 'stages.3.0'],
    ),
    'convmixer': Family(
        dict(type='ConvMixer', arch=dict(embed_dims=6, depth=3, patch_size=4, kernel_size=3)),
        6,
        16,
        ['stages.0.0', 'stages.1.0', 'stages.2.0'],
        POOLING,
    ),
    'van': Family(
        dict(type='VAN', arch=dict(embed_dims=[4, 8, 12, 16], depths=[1, 2, 1, 1], ffn_ratios=[2] * 4)),
        16,
        32,
        ['blocks1.0', 'blocks2.0', 'blocks2.1', 'blocks3.0', 'blocks4.0'],
        POOLING,
    ),
    'poolformer': Family(dict(type='PoolFormer', arch=META), 16, 64, META_BLOCKS, POOLING),
    'riformer': Family(dict(type='RIFormer', arch=META), 16, 64, META_BLOCKS, POOLING),
    'transformer': Family(
        dict(type='VisionTransformer', arch=VIT, img_size=32, patch_size=16), 8, 32, [f'layers.{i}' for i in range(3)]
    ),
    # A block with shifted windows goes with the one before it.
    'swin': Family(
        dict(type='SwinTransformer', img_size=32, window_size=4, out_indices=(1,),
             arch=dict(embed_dims=8, depths=[2, 4], num_heads=[2, 2])),
        16,
        32,
        [tuple(f'stages.{stage}.blocks.{block + i}' for i in range(2)) for stage, block in ((0, 0), (1, 0), (1, 2))],
        POOLING,
    ),
}  # fmt: skip


class Identity(nn.Module):
    """Gives back its first argument; it is as wide as the block that it stands for."""

    def __init__(self, block):
        super().__init__()
        self.out_channels = getattr(block, 'out_channels', None)

    def forward(self, x, *others):
        return x


def names(space):
    return list(space.blocks.values())


@pytest.fixture(params=FAMILIES)
def family(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]


def test_without_its_blocks(family):
    model = family.build()
    space = build_search_space(model, family.inputs(), forward=tensor_forward)
    assert names(space) == family.groups

    model = prepare_for_parity(model)
    inputs = tuple(x.double() for x in family.inputs())
    by_hand = copy.deepcopy(model)
    for name in [name for group in family.groups for name in group]:
        parent, _, child = name.rpartition('.')
        setattr(by_hand.get_submodule(parent), child, Identity(by_hand.get_submodule(name)))
    mask = torch.ones(space.num_elements, dtype=torch.bool)
    mask[list(space.blocks)] = False
    subnet = slim(model, space, space.structure(mask))
    with torch.no_grad():
        expected, found = (tensor_forward(network)(*inputs) for network in (by_hand, subnet))
        whole = tensor_forward(model)(*inputs)
    for a, b, c in zip(expected, found, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(a, c), 'the blocks do nothing'


def test_patterns_name_blocks(family):
    model, (first, *others) = family.build(), family.groups

    def blocks(**patterns):
        return names(build_search_space(model, family.inputs(), forward=tensor_forward, verify=False, **patterns))

    assert blocks(exclude=first[:1]) == others
    assert blocks(include=first) == [first]
    assert blocks(include=['backbone'], exclude=[f'{first[0].rpartition(".")[0]}.*']) == [
        group for group in others if group[0].rpartition('.')[0] != first[0].rpartition('.')[0]
    ]
    assert blocks(include=['head']) == []
