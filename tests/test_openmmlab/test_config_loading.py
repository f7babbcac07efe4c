import sys

import pytest

from mmdms.errors import ConfigError
from mmdms.openmmlab.configs import check_model_types, load_config, require_keys


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / 'config.py'
        path.write_text(text)
        return str(path)

    return write


def test_by_path_with_options(write):
    config = load_config(write('a = dict(b=1, c=[dict(d=2)])'), {'a.b': 3, 'a.c.0.d': 4})
    assert config.a == dict(b=3, c=[dict(d=4)])


def test_by_name():
    config = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    assert config.model.backbone.type == 'ResNet_CIFAR' and config.default_scope == 'mmpretrain'


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('nowhere.py', "no config at 'nowhere.py'"),
        ('.', "no config at '.'"),
        ('nopackage::a/b.py', "package 'nopackage', which is not installed"),
        ('mmgone::a/b.py', "package 'mmgone', which is not installed: install it, or give a path"),
        ('::a/b.py', "package '', which is not installed"),
        ('mmpretrain::resnet/resnet18_8xb16_cifar.py', "did you mean 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'"),
        ('mmpretrain::qqq.py', "no config 'qqq.py': see "),
    ],
)
def test_not_there(name, message):
    with pytest.raises(ConfigError, match=message.replace('.', r'\.')):
        load_config(name)


@pytest.mark.parametrize('package', ['mmpretrain', 'mmdet', 'mmyolo'])
def test_an_optional_package_that_is_missing(monkeypatch, package):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=f'{package!r}, which is not installed: run `pip install '):
        load_config(f'{package}::a/b.py')


@pytest.mark.parametrize(
    'text', ['a = (', 'a = 1 / 0', "_base_ = ['missing.py']", "custom_imports = dict(imports=['nope'])"]
)
def test_does_not_parse(write, text):
    with pytest.raises(ConfigError, match='cannot be read'):
        load_config(write(text))


def test_options_that_do_not_fit(write):
    with pytest.raises(ConfigError, match='--cfg-options .* does not fit'):
        load_config(write('a = [1, 2]'), {'a.7': 1})


def test_require_keys(write):
    config = load_config(write('model = dict()\ntrain_cfg = None'))
    with pytest.raises(ConfigError, match='does not set train_cfg, train_dataloader, so there is nothing to train'):
        require_keys(config, ('model', 'train_cfg', 'train_dataloader'), 'train')


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            "dict(type='ImageClassifer')",
            r"model.type='ImageClassifer' is not a model .* did you mean 'ImageClassifier'",
        ),
        ("dict(type='ImageClassifier', backbone=dict(type='Qq'))", r"model.backbone.type='Qq' is not .* spelt right"),
        ("dict(type='ImageClassifier', neck=[dict(type='Qq')])", r"model.neck\[0\].type='Qq' is not a model"),
    ],
)
def test_unknown_model(write, model, message):
    with pytest.raises(ConfigError, match=message):
        check_model_types(load_config(write(f"default_scope = 'mmpretrain'\nmodel = {model}")))


def test_known_model_and_unknown_scope(write):
    check_model_types(load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py'))
    with pytest.raises(ConfigError, match="default_scope='nope', which cannot be imported"):
        check_model_types(load_config(write("default_scope = 'nope'\nmodel = dict(type='A')")))
    assert 'nope' not in sys.modules
