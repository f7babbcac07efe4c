"""Attention of plain and windowed transformers."""

import pytest
import torch
from helpers.adapted import POOLING, assert_same_forward, assert_space, build, classifier, noise, space_of_classifier
from mmpretrain.models.backbones.hivit import Attention as HiViTAttention
from mmpretrain.models.backbones.mixmim import MixMIMWindowAttention
from mmpretrain.models.backbones.twins import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from mmpretrain.models.backbones.vit_sam import Attention as SAMAttention
from mmpretrain.models.utils.attention import BEiTAttention, MultiheadAttention, WindowMSA, WindowMSAV2

TOKENS = noise(2, 9, 8)
MAP = noise(2, 15, 8)

MODULES = {
    'plain': (lambda: MultiheadAttention(8, 2), [TOKENS]),
    # mmpretrain divides by a scale of the module's own.
    'own scale': (lambda: MultiheadAttention(8, 2, qk_scale=0.3), [TOKENS]),
    'values to output': (lambda: MultiheadAttention(6, 1, input_dims=8, v_shortcut=True), [TOKENS]),
    'windows': (lambda: WindowMSA(8, (3, 3), 2), [TOKENS]),
    'shifted windows': (lambda: WindowMSA(8, (3, 3), 2), [TOKENS, noise(2, 9, 9)]),
    'cosine windows': (lambda: WindowMSAV2(8, (3, 3), 2), [TOKENS, noise(1, 9, 9)]),
    'beit': (lambda: BEiTAttention(8, 2, window_size=(2, 4), use_rel_pos_bias=True), [TOKENS]),
    'beit, shared positions': (lambda: BEiTAttention(8, 2, None, False), [TOKENS, noise(2, 9, 9)]),
    'mixmim': (lambda: MixMIMWindowAttention(8, (3, 3), 2), [TOKENS]),
    'mixmim, two images': (lambda: MixMIMWindowAttention(8, (3, 3), 2), [TOKENS, (noise(2, 9, 1) > 0).float()]),
    'hivit': (lambda: HiViTAttention(3, 8, 2), [TOKENS, True]),
    'hivit, some tokens': (
        lambda: HiViTAttention(3, 8, 2, rpe=False),
        [TOKENS, None, torch.arange(18).view(2, 9) % 5],
    ),
    'twins, padded both ways': (lambda: LocallyGroupedSelfAttention(8, 2, window_size=2), [MAP, (3, 5)]),
    'twins, padded one way': (lambda: LocallyGroupedSelfAttention(8, 2, window_size=3), [MAP, (3, 5)]),
    'twins, not padded': (lambda: LocallyGroupedSelfAttention(8, 2, window_size=3), [noise(2, 18, 8), (3, 6)]),
    'twins, all tokens': (lambda: GlobalSubsampledAttention(8, 2), [MAP, (3, 5)]),
    'twins, subsampled': (lambda: GlobalSubsampledAttention(8, 2, sr_ratio=2), [noise(2, 24, 8), (4, 6)]),
    'sam': (lambda: SAMAttention(8, 2), [noise(2, 3, 5, 8)]),
    'sam, positions': (lambda: SAMAttention(8, 2, use_rel_pos=True, input_size=(3, 5)), [noise(2, 3, 5, 8)]),
    'sam, other size': (lambda: SAMAttention(8, 2, use_rel_pos=True, input_size=(4, 4)), [noise(2, 3, 5, 8)]),
}


@pytest.mark.parametrize('name', MODULES)
def test_adapter_computes_the_same(name):
    module, inputs = MODULES[name]
    assert_same_forward(module(), *inputs)


ViT = dict(img_size=16, patch_size=4, out_type='avg_featmap')
NETWORKS = {
    'swin v2': (
        dict(type='SwinTransformerV2',
             arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4], extra_norm_every_n_blocks=0),
             img_size=16, window_size=2, out_indices=(1,)),
        16, POOLING,
        # A small network of 512 gives every head its positions.
        [8, 16, *[4, 4, 32, 512] * 2, *[4, 4, 64, 512] * 2], [2, 2, 4, 4], [1, 1],
    ),
    'beit': (
        dict(type='BEiTViT', arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=12), **ViT),
        8, None, [8, *[4, 4, 12] * 2], [2, 2], [2],
    ),
    'mixmim': (
        dict(type='MixMIMTransformer', arch=dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[2, 2, 4, 4]),
             img_size=32, window_size=[4, 2, 2, 1]),
        64, None, [8, 4, 4, 32, 16, *[8, 8, 64] * 2, 32, 8, 8, 128, 64, 16, 16, 256], [2, 2, 2, 4, 4], [1, 2, 1, 1],
    ),
    'hivit': (
        dict(type='HiViT', arch=dict(embed_dims=8, depths=[1, 4], num_heads=2), img_size=32, patch_size=16,
             rpe=True, out_indices=[3]),
        8, POOLING,
        # A block of the first stage has two feed-forward layers alone.
        [4, 12, 12, 8, *[4, 4, 32] * 4], [2] * 4, [2, 4],
    ),
    'twins-pcpvt': (
        dict(type='PCPVT', arch=dict(embed_dims=[6, 8], depths=[1, 2], num_heads=[1, 2], patch_sizes=[4, 2],
                                     strides=[4, 2], mlp_ratios=[2, 2], sr_ratios=[2, 1]), out_indices=(1,)),
        8, POOLING,
        # The subsampled map has a width of its own.
        [6, 6, 6, 6, 12, 8, *[4, 4, 16] * 2], [1, 2, 2], [1, 2],
    ),
    'twins-svt': (
        dict(type='SVT', arch=dict(embed_dims=[6, 8], depths=[2, 1], num_heads=[1, 2], patch_sizes=[4, 2],
                                   strides=[4, 2], mlp_ratios=[2, 2], sr_ratios=[2, 1], window_sizes=[3, 2]),
             out_indices=(1,)),
        8, POOLING, [6, 6, 6, 12, 6, 6, 6, 12, 8, 4, 4, 16], [1, 1, 2], [2, 1],
    ),
    'sam': (
        dict(type='ViTSAM', arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=12,
                                      global_attn_indexes=[1]),
             img_size=16, patch_size=4, out_channels=6, use_rel_pos=True, window_size=3),
        6, POOLING,
        # Two convolutions at the end have a width of their own.
        [8, *[4, 4, 12] * 2, 6, 6], [2, 2], [2],
    ),
    't2t': (
        dict(type='T2T_ViT', img_size=32, embed_dims=8, num_layers=2, out_type='avg_featmap',
             t2t_cfg=dict(token_dims=6, use_performer=False),
             layer_cfgs=dict(num_heads=2, feedforward_channels=12)),
        8, None,
        # In a layer that goes from tokens to tokens, values and output are one; queries and keys are apart.
        [6, 6, 6, 6, 6, 6, 8, *[4, 4, 12] * 2], [1, 1, 2, 2], [2],
    ),
    'mobilevit': (
        dict(type='MobileViT', arch=[['mobilenetv2', 6, 2, 1, 2], ['mobilevit', 8, 2, 8, 12, 2, 2]],
             stem_channels=4, out_indices=(1,)),
        32, POOLING,
        # Within the last layer: two layers of its first block, local, transformer, out, fused.
        [4, 8, 6, 12, 8, 8, 8, *[2, 2, 12] * 2, 8, 8, 32], [4, 4], [2],
    ),
    'mlp-mixer': (
        dict(type='MlpMixer', arch=dict(embed_dims=8, num_layers=2, tokens_mlp_dims=6, channels_mlp_dims=12),
             img_size=16, patch_size=4),
        8, dict(type='GlobalAveragePooling', dim=1), [8, *[12] * 2], [], [2],
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', NETWORKS)
def test_network(name):
    backbone, width, neck, channels, heads, depth = NETWORKS[name]
    frozen = ['token_mix'] if name == 'mlp-mixer' else []  # its sizes are those of the other layers, in every channel
    size = backbone.get('img_size', 32)
    assert_same_forward(build(**backbone), noise(2, 3, size, size))
    space = space_of_classifier(classifier(backbone, width, neck), size)
    assert_space(space, channels, heads, depth, frozen)
