"""Attention between channels: XCiT, EdgeNeXt, DaViT."""

import pytest
import torch
from helpers.adapted import assert_same_forward, assert_space, classifier, noise, space_of_classifier
from helpers.tiny import Net, reasons, sizes, space_of
from mmpretrain.models.backbones.davit import ChannelAttention, DaViTWindowMSA
from mmpretrain.models.backbones.xcit import XCA, ClassAttntion
from mmpretrain.models.utils.attention import ChannelMultiheadAttention
from torch import nn

from mmdms.adapters.channel_attention import masked_softmax

MODULES = {
    'xcit': (lambda: XCA(8, num_heads=2, qkv_bias=True), ['column_dims', 'row_dims']),
    'edgenext': (lambda: ChannelMultiheadAttention(8, num_heads=2), ['column_dims', 'row_dims']),
    'edgenext, fixed scale': (
        lambda: ChannelMultiheadAttention(8, num_heads=2, qk_scale_type='fixed', qkv_bias=True),
        ['column_dims', 'row_dims'],
    ),
    'davit': (lambda: ChannelAttention(8, num_heads=2, qkv_bias=True), ['column_dims', 'row_dims']),
    'davit, windows': (lambda: DaViTWindowMSA(8, (2, 2), num_heads=2), ['qk_dims', 'v_dims']),
    'xcit, class token': (lambda: ClassAttntion(8, num_heads=2), ['qk_dims', 'v_dims']),
}


@pytest.mark.parametrize('name', MODULES)
def test_modules(name):
    build, widths = MODULES[name]
    assert_same_forward(build(), noise(2, 4, 8))
    net = Net(lambda n, x: n.out(n.attention(n.stem(x))), stem=nn.Linear(3, 8), attention=build(), out=nn.Linear(8, 3))
    space = space_of(net, torch.rand(1, 4, 3))
    expected = {f'attention.{width}': 4 for width in widths} | {'attention.num_heads': 2}
    assert sizes(space) == {'stem': 8, 'attention.proj': 8, **expected}
    assert reasons(space) == {}


def test_v_shortcut_ties_values_to_the_output():
    attention = ChannelMultiheadAttention(6, num_heads=1, input_dims=4, v_shortcut=True)
    assert_same_forward(attention, noise(2, 5, 4))
    net = Net(
        lambda n, x: n.out(n.attention(n.stem(x))), stem=nn.Linear(3, 4), attention=attention, out=nn.Linear(6, 3)
    )
    space = space_of(net, torch.rand(1, 5, 3))
    found = sizes(space)
    # Keys and values are one, and the output with them.
    assert found == {
        'stem': 4, 'attention.column_dims': 6, 'attention.row_dims': 6
    }  # fmt: skip


def test_masked_softmax():
    logits, mask = noise(3, 5), torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0], requires_grad=True)
    kept = [0, 2, 3]
    found = masked_softmax(logits, mask)
    weights = torch.tensor([1.0, 0.5, 1.0]) * logits[:, kept].exp()
    torch.testing.assert_close(found[:, kept], weights / weights.sum(-1, keepdim=True))
    assert not found[:, [1, 4]].any()
    found.square().sum().backward()
    assert mask.grad.isfinite().all() and mask.grad[2] != 0


def test_xcit():
    backbone = dict(
        type='XCiT', patch_size=16, img_size=32, embed_dims=16, depth=2, cls_attn_layers=1, num_heads=2, mlp_ratio=2
    )
    model = classifier(backbone, 16, neck=None)
    assert_same_forward(model.backbone, noise(2, 3, 32, 32))
    space = space_of_classifier(model, 32)
    stem, blocks, last = [2, 4, 8, 16], [8, 8, 32, 8, 8, 32], [8, 8, 32]
    assert_space(space, [*stem, *blocks, *last], heads=[2, 2, 2], depth=[2])


def test_davit():
    arch = dict(embed_dims=8, depths=[1, 2], num_heads=[2, 4])
    model = classifier(dict(type='DaViT', arch=arch, window_size=2, out_indices=(1,)), 16)
    assert_same_forward(model.backbone, noise(2, 3, 16, 16))
    space = space_of_classifier(model, 16)
    # Every block attends in windows and between channels, each with a feed-forward layer.
    block = [4, 4, 4, 4]
    assert_space(
        space, [8, *block, 32, 32, 16, *block, *block, 64, 64, 64, 64], heads=[2, 2, 4, 4, 4, 4], depth=[1, 2]
    )


def test_edgenext():
    arch = dict(channels=[8, 10, 12, 14], depths=[1, 2, 2, 1], num_heads=[2, 2, 2, 2])
    backbone = dict(type='EdgeNeXt', arch=arch, global_blocks=[0, 1, 1, 1])
    model = classifier(backbone, 14, neck=None)
    assert_same_forward(model.backbone, noise(2, 3, 64, 64))
    space = space_of_classifier(model, 64)
    # Scales 1 to n - 1 of a stage shrink alike, the last one apart: 10 = 5 + 5, 12 = 4 + 4 + 4, 14 = 4 + 4 + 4 + 2.
    streams = [8, 5, 5, 4, 4, 4, 2]
    heads, widths, mlps = [2, 2, 2], [5, 5, 6, 6, 7, 7], [32, 40, 40, 48, 48, 56]
    assert_space(space, [*streams, *widths, *mlps], heads=heads, depth=[1, 2, 2, 1])
