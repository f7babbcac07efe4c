"""A survey makes no download, says so, and names the option that drops the wish for one."""

import urllib.request

import pytest
from mmengine.config import Config
from torch import nn

from mmdms.errors import ConfigError, ModelError
from mmdms.openmmlab.architecture import build_architecture
from mmdms.openmmlab.commands.offline import no_downloads, weights_named
from mmdms.openmmlab.commands.survey import survey
from mmdms.openmmlab.export.subnet import without_pretrained
from mmdms.registry import MODELS


@MODELS.register_module()
class WantsADownload(nn.Module):
    """A layer that fetches its weights, and tries again and again."""

    def __init__(self, pretrained=None, ckpt_path=None, tries=100):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        for _ in range(tries if pretrained or ckpt_path else 0):
            try:
                urllib.request.urlopen('https://weights.invalid/file.pth')
            except Exception:
                self.failed = True

    def forward(self, x):
        return self.layer(x)


@MODELS.register_module()
class Around(nn.Module):
    """A network with a part of its own."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.last = MODELS.build(backbone), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(self.backbone(x))


def config_of(**options):
    backbone = dict(type='mmdms.WantsADownload', **options)
    return Config(dict(model=dict(type='mmdms.Around', backbone=backbone)))


def test_weights_of_a_survey_are_left_out(capsys):
    result = survey(config_of(pretrained=True), [3, 8, 8])
    assert [unit['total'] for unit in result['units']] == [4]
    assert (
        'without pretrained weights, which a survey does not need: model.backbone.pretrained'
        in capsys.readouterr().out
    )


@pytest.mark.parametrize('value', [True, 'torchvision://resnet50'])
def test_every_form_of_pretrained(value):
    config = [dict(a=dict(pretrained=value), b=dict(pretrained=None))]
    assert without_pretrained(config) == [
        dict(a=dict(pretrained=False if value is True else None), b=dict(pretrained=None))
    ]
    assert weights_named('model', config) == ['model.0.a.pretrained']


def test_a_download_stops_at_once_and_names_the_option():
    model = config_of(ckpt_path='https://weights.invalid/file.pth').model
    expected = (
        r'model\.backbone \(mmdms\.WantsADownload\) wants a download from weights\.invalid, .*'
        r'--cfg-options model\.backbone\.ckpt_path=None'
    )
    with pytest.raises(ConfigError, match=expected), no_downloads(model):
        build_architecture(model)


def test_the_network_is_back_afterwards():
    import socket

    before = socket.getaddrinfo
    with pytest.raises(ConfigError, match='the model wants a download from weights'), no_downloads({}):
        urllib.request.urlopen('https://weights.invalid/')
    assert socket.getaddrinfo is before


@MODELS.register_module()
class Fails(Around):
    """A network that does not run."""

    message = 'no such thing'

    def forward(self, x):
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ('message', 'expected'),
    [
        (
            'no such thing',
            r'does not run on an image of 3x8x8.*RuntimeError: no such thing \(.*test_offline\.py:\d+\)',
        ),
        (
            'wiggle_forward_impl: implementation for device cpu not found.\n',
            "operation 'wiggle_forward' has no kernel",
        ),
    ],
)
def test_a_network_that_does_not_run(monkeypatch, message, expected):
    monkeypatch.setattr(Fails, 'message', message)
    config = config_of()
    config.model.type = 'mmdms.Fails'
    with pytest.raises(ModelError, match=expected):
        survey(config, [3, 8, 8])
