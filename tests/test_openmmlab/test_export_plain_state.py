"""The state that an exported checkpoint holds."""

import torch
from helpers.adapted import build, noise
from torch import nn

from mmdms.openmmlab.export.export import plain_state


def test_is_the_state_of_the_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = plain_state(model)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    state['0.weight'].zero_()
    assert model[0].weight.abs().sum() > 0


def test_holds_weights_that_the_model_keeps_out_of_its_own_state():
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=24)
    vit = dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=16)
    config = dict(type='LoRAModel', module=vit, alpha=2, rank=2, targets=[dict(type='qkv')])
    first, second = (build(**config) for _ in range(2))
    assert len(first.state_dict()) < len(list(first.named_parameters()))
    state = plain_state(first)
    assert set(state) >= {name for name, _ in first.named_parameters()}
    second.load_state_dict(state, strict=True)
    images = noise(1, 3, 32, 32)
    for a, b in zip(first.eval()(images), second.eval()(images), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
