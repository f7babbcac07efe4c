"""Networks whose modules mix tokens in ways of their own: EVA-02, MViT, TNT, ViG, RevViT, Conformer."""

import pytest
from helpers.adapted import assert_same_forward, assert_space, build, classifier, noise, space_of_classifier
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmpretrain.models.backbones.mvit import MultiScaleAttention
from mmpretrain.models.backbones.vig import DenseDilatedKnnGraph, Vig
from mmpretrain.models.utils import RotaryEmbeddingFast

from mmdms.adapters.base import adapt

EVA02 = dict(
    type='ViTEVA02',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=12),
    img_size=16,
    patch_size=4,
    sub_ln=True,
    out_type='avg_featmap',
)


def test_eva02():
    assert_same_forward(build(**EVA02), noise(2, 3, 16, 16))
    space = space_of_classifier(classifier(EVA02, 16, neck=None), 16)
    # Queries and keys of 8 are rotated in 4 pairs, in every layer by itself.
    assert_space(space, [16, *[4, 8, 12] * 2], heads=[2, 2], depth=[2])


def test_a_rotation_of_another_resolution():
    rotation = RotaryEmbeddingFast(8, 4)
    assert_same_forward(rotation, noise(1, 2, 6, 8), (2, 3))
    adapt(rotation)
    rotation.freqs_cos, rotation.freqs_sin = rotation.freqs_cos[:, :4], rotation.freqs_sin[:, :4]
    assert rotation(noise(1, 2, 16, 4), 4).shape == (1, 2, 16, 4)
    with pytest.raises(ValueError, match='maps of'):
        rotation(noise(1, 2, 6, 4), (2, 3))


@pytest.mark.parametrize(
    'options',
    [
        dict(rel_pos_spatial=True, input_size=(4, 4)),
        dict(rel_pos_spatial=True, input_size=(4, 4), stride_q=2),
        dict(rel_pos_spatial=True, input_size=(6, 6), stride_kv=2),
        dict(residual_pooling=False),
    ],
)
def test_multi_scale_attention_computes_the_same(options):
    assert_same_forward(MultiScaleAttention(8, 12, 2, **options), noise(2, 16, 8), (4, 4))


def test_mvit():
    backbone = dict(
        type='MViT',
        arch=dict(embed_dims=8, num_layers=3, num_heads=1, downscale_indices=[1]),
        img_size=16,
        adaptive_kv_stride=2,
    )
    assert_same_forward(build(**backbone), noise(2, 3, 16, 16))
    space = space_of_classifier(classifier(backbone, 16), 16)
    # Queries and values meet, so that a head has one width.
    assert_space(space, [8, 8, 32, 16, 8, 64, 8, 64], heads=[1, 2, 2], depth=[1, 1])


def test_tnt():
    arch = dict(embed_dims_outer=8, embed_dims_inner=4, num_layers=2, num_heads_outer=2, num_heads_inner=2)
    backbone = dict(type='TNT', arch=arch, img_size=16, patch_size=8, first_stride=4)
    assert_same_forward(build(**backbone), noise(2, 3, 16, 16))
    space = space_of_classifier(classifier(backbone, 8, neck=None), 16)
    inner, outer = [2, 2, 16], [4, 4, 32]
    assert_space(space, [4, 8, *inner, *outer, *inner, *outer], heads=[2] * 4, depth=[2])


@pytest.mark.parametrize('batch_first', [True, False])
def test_attention_of_mmcv_computes_the_same(batch_first):
    attention = MultiheadAttention(8, 2, batch_first=batch_first)
    x = noise(3, 5, 8)
    assert_same_forward(attention, x)
    # With other keys it is the module's own.
    assert_same_forward(attention, x, noise(3, 5, 8).flip(0), None, x.flip(0))


def test_neighbours_are_the_same():
    graph = DenseDilatedKnnGraph(k=3, dilation=2)
    assert_same_forward(graph, noise(2, 4, 9, 1))
    assert_same_forward(graph, noise(2, 4, 9, 1), noise(2, 4, 7, 1), noise(1, 9, 7))


@pytest.mark.parametrize('kind', ['mr', 'edge', 'sage', 'gin'])
def test_vig(kind, monkeypatch):
    monkeypatch.setitem(Vig.arch_settings, 'smallest', dict(num_blocks=2, channels=16))
    backbone = dict(type='Vig', arch='smallest', k=3, graph_conv_type=kind)
    model = classifier(backbone, 16)
    assert_same_forward(model.backbone, noise(1, 3, 224, 224), train=False)
    space = space_of_classifier(model, 224, seeds=1)
    # The groups of a graph convolution shrink alike; an edge has both of its ends in two groups each.
    inside, outside = (8 if kind == 'edge' else 4), 8
    assert_space(space, [2, 4, 8, 16, 16, *[inside, outside, 64] * 2], depth=[2, 2])


def test_revvit():
    backbone = dict(
        type='RevVisionTransformer',
        arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=12),
        img_size=16,
        patch_size=4,
        out_type='avg_featmap',
    )
    assert_same_forward(build(**backbone), noise(2, 3, 16, 16))
    space = space_of_classifier(classifier(backbone, 16, neck=None), 16)
    # Its own backward computes blocks anew, past the gates that would remove them: no adapter lets them go.
    assert_space(space, [8, *[4, 4, 12] * 2], heads=[2, 2], frozen=['layers'])


def test_conformer():
    arch = dict(embed_dims=8, depths=6, num_heads=2, channel_ratio=1)
    head = dict(type='ConformerHead', num_classes=3, in_channels=[32, 8])
    model = classifier(dict(type='Conformer', arch=arch, base_channels=8), None, neck=None, head=head)
    assert_same_forward(model.backbone, noise(1, 3, 64, 64))
    space = space_of_classifier(model, 64, seeds=2)
    # Both streams begin with a layer each; a block has the inner layers of two bottlenecks and one layer between.
    transformer, begin = [4, 4, 32], [64, 2, 2, 8, 8]
    blocks = [size for width in (8, 16, 16, 32, 32) for size in [*[width // 4] * 4, *transformer]]
    assert_space(space, [*begin, *transformer, *blocks, 16, 32, 32], heads=[2] * 6, depth=[1, 1, 1])
