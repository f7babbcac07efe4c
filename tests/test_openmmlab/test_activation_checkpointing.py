"""mmpretrain's ``with_cp=True``: forward passes are computed again in the backward pass, under the same masks."""

import pytest
import torch
from torch.utils import checkpoint as checkpointing

from mmdms.openmmlab.algorithm import DMSAlgorithm

# Norms by running statistics: those of a small batch have channels of constants, whose rounding they blow up.
BACKBONES = {
    'resnet': dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, norm_eval=True),
    'bottleneck': dict(type='ResNet', depth=50, stem_channels=8, base_channels=8, expansion=2, norm_eval=True),
    'swin': dict(
        type='SwinTransformer', arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]), img_size=32, window_size=4,
        drop_path_rate=0.0, out_indices=(1,),
    ),
}  # fmt: skip


def build(name, with_cp, freeze_weights):
    channels = dict(resnet=64, bottleneck=128, swin=16)[name]
    torch.manual_seed(0)
    algorithm = DMSAlgorithm(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(**BACKBONES[name], with_cp=with_cp),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', in_channels=channels, num_classes=5),
        ),
        dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.5), divisor=1),
        (3, 32, 32),
        freeze_weights=freeze_weights,
    )
    return algorithm.double().train()


def gradients(algorithm):
    """Of the masks, after a few steps of the structure so that masks are neither all alike nor all one."""
    optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.0)
    algorithm.mutator.attach(optimizer)
    found = []
    for index in range(4):
        algorithm.mutator.set_progress(0.1 * index)
        inputs = torch.rand(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
        optimizer.zero_grad()
        algorithm(inputs, mode='tensor')[0].square().sum().backward()
        found.append(algorithm.mutator._gradient.clone())
        optimizer.step()
    return found


@pytest.mark.parametrize('freeze_weights', [False, True])
@pytest.mark.parametrize('name', BACKBONES)
def test_gradients_of_masks_are_the_same(name, freeze_weights, monkeypatch):
    calls = []
    real = checkpointing.checkpoint

    def counted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpointing, 'checkpoint', counted)
    plain, saving = (build(name, with_cp, freeze_weights) for with_cp in (False, True))
    calls.clear()  # of tracing
    saving.load_state_dict(plain.state_dict())
    assert plain.mutator.space.units == saving.mutator.space.units
    expected = gradients(plain)
    assert not calls
    found = gradients(saving)
    assert calls, 'nothing was checkpointed'
    for one, other in zip(found, expected, strict=True):
        assert int(other.count_nonzero()) > len(other) / 2
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(saving.mutator.keep_ratio, plain.mutator.keep_ratio, rtol=1e-9, atol=1e-12)
    assert bool((plain.mutator.keep_ratio != 1).any())
