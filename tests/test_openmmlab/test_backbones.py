"""Backbones of the papers on pruning: their sizes, and that they are searched and sliced."""

import pytest
import torch
from helpers.tiny import image, reasons, space_of
from torch import nn

from mmdms.errors import ConfigError
from mmdms.openmmlab.models import CIFARResNet, WideResNet
from mmdms.registry import MODELS


class Classifier(nn.Module):
    """A backbone with the average pooling and the ten classes of the papers."""

    def __init__(self, backbone, channels):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def weights(module):
    return sum(parameter.numel() for parameter in module.parameters())


# He et al., table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M, 1.7 M, with shortcuts that have no weights.
@pytest.mark.parametrize('depth,millions', [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)])
def test_resnets_have_the_size_of_the_paper(depth, millions):
    model = Classifier(CIFARResNet(depth), 64)
    shortcuts = sum(weights(module) for name, module in model.named_modules() if name.endswith('downsample'))
    # 1x1 convolutions 16 -> 32 and 32 -> 64, and their norms.
    assert shortcuts == 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert round((weights(model) - shortcuts) / 1e6, 2) == millions


# Zagoruyko and Komodakis, tables 1 to 4.
@pytest.mark.parametrize('depth,factor,millions', [(40, 1, 0.6), (28, 2, 1.5), (16, 8, 11.0), (28, 10, 36.5)])
def test_wide_resnets_have_the_size_of_the_paper(depth, factor, millions):
    with torch.device('meta'):
        model = Classifier(WideResNet(depth, factor), 64 * factor)
    assert round(weights(model) / 1e6, 1) == millions


@pytest.mark.parametrize('backbone,channels', [(CIFARResNet(20), 64), (WideResNet(16, 2), 128)])
def test_the_last_of_three_stages_is_returned(backbone, channels):
    (found,) = backbone.eval()(torch.rand(2, 3, 32, 32))
    assert found.shape == (2, channels, 8, 8)


@pytest.mark.parametrize('build,name', [(CIFARResNet, 'CIFARResNet'), (WideResNet, 'WideResNet')])
@pytest.mark.parametrize('depth', [18, 21, '20', 2])
def test_depths_that_do_not_exist_are_refused(build, name, depth):
    with pytest.raises(ConfigError, match=rf'backbone\.depth of {name} must be .* but it is {depth!r}'):
        build(depth)


def test_they_are_registered():
    assert MODELS.get('mmdms.CIFARResNet') is CIFARResNet and MODELS.get('mmdms.WideResNet') is WideResNet


def test_resnet_is_searched_and_sliced_exactly():
    model = Classifier(CIFARResNet(20, base_channels=4), 16).double()
    space = space_of(model, image(size=8).double())
    assert not reasons(space)
    # A stream per stage, the inside of every block, and per stage the blocks that keep their shape.
    channels = [unit.total for unit in space.units if unit.kind == 'channels']
    assert sorted(channels) == sorted(4 * [4] + 4 * [8] + 4 * [16])
    depth = {unit.name: unit.total for unit in space.units if unit.kind == 'depth'}
    assert depth == {'backbone.layer1': 3, 'backbone.layer2': 2, 'backbone.layer3': 2}


def test_wide_resnet_is_searched_and_sliced_exactly():
    model = Classifier(WideResNet(16, 1), 64).double()
    space = space_of(model, image(size=8).double())
    assert not reasons(space)
    # As wide as the stem, the first stage needs no projection: its stream is the stem's.
    channels = [unit.total for unit in space.units if unit.kind == 'channels']
    assert sorted(channels) == sorted(3 * [16] + 3 * [32] + 3 * [64])
    depth = {unit.name: unit.total for unit in space.units if unit.kind == 'depth'}
    assert depth == {'backbone.layer1': 2, 'backbone.layer2': 1, 'backbone.layer3': 1}
