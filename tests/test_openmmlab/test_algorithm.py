"""The supernet as mmengine sees it, and the three ways to search, each really trained for a few iterations."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmdms.errors import ConfigError
from mmdms.openmmlab import algorithm as algorithms
from mmdms.openmmlab.architecture import build_architecture

CONFIG = 'configs/digits/dms-10_resnet18_b64_digits.py'


@pytest.fixture(scope='module')
def config(pytestconfig):
    config = Config.fromfile(pytestconfig.rootpath / CONFIG)
    config.model.architecture.backbone.update(stem_channels=4, base_channels=4)
    config.model.architecture.head.in_channels = 32
    config.model.mutator.budget.target = 0.4
    config.merge_from_dict({
        'train_cfg.max_epochs': 4, 'train_dataloader.batch_size': 16, 'train_dataloader.dataset.indices': 48,
        'val_dataloader.dataset.indices': 16, 'log_level': 'WARNING',
    })  # fmt: skip
    init_default_scope('mmpretrain')
    return config


@pytest.fixture(scope='module')
def algorithm(config):
    return MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor})


def run(config, folder, **changes):
    """Train; return the model and the state that it started from."""
    config = copy.deepcopy(config)
    config.work_dir = str(folder)
    config.merge_from_dict(changes)
    config.experiment_name = folder.name
    runner = Runner.from_cfg(config)
    runner._init_model_weights()
    runner.load_or_resume()
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner._init_model_weights = lambda: None
    runner.train()
    return runner.model, before


def assert_searched(model):
    assert bool(model.mutator.settled)
    assert 0 < float(model.mutator.relative_cost(model.mutator.final_mask)) <= 0.4
    assert int(model.mutator.importance.count_nonzero()) > 0
    assert not torch.equal(model.mutator.keep_ratio, torch.ones_like(model.mutator.keep_ratio))


def changed(model, before):
    return {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}


def test_from_scratch(config, tmp_path):
    model, before = run(config, tmp_path)
    assert_searched(model)
    assert 'architecture.backbone.conv1.weight' in changed(model, before)


@pytest.fixture(scope='module')
def plain_checkpoint(config, tmp_path_factory):
    torch.manual_seed(7)
    model = build_architecture(config.model.architecture)
    model.init_weights()
    path = tmp_path_factory.mktemp('plain') / 'plain.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    return path


def test_from_pretrained_weights(config, plain_checkpoint, tmp_path):
    model, before = run(config, tmp_path, load_from=str(plain_checkpoint))
    for key, value in torch.load(plain_checkpoint, weights_only=True)['state_dict'].items():
        assert torch.equal(before[f'architecture.{key}'], value), key
    assert_searched(model)
    assert 'architecture.backbone.conv1.weight' in changed(model, before)


def test_with_frozen_weights(config, plain_checkpoint, tmp_path):
    model, before = run(config, tmp_path, load_from=str(plain_checkpoint), **{'model.freeze_weights': True})
    assert_searched(model)
    assert {key.split('.')[0] for key in changed(model, before)} == {'mutator'}
    assert float(model.anchor.detach()) == 0


def test_parameter_names_stay(config, algorithm):
    names = {name for name, _ in build_architecture(config.model.architecture).named_parameters()}
    assert {f'architecture.{name}' for name in names} == {name for name, _ in algorithm.named_parameters()}


def test_initialisation_reaches_masked_weights(config, algorithm):
    masked = copy.deepcopy(algorithm)
    masked.mutator.masks.set(torch.zeros(masked.mutator.space.num_elements))
    for parameter in masked.architecture.parameters():
        parameter.data.zero_()
    masked.init_weights()
    weight = dict(masked.architecture.named_parameters())['backbone.layer1.0.conv2.weight']
    assert int(weight.count_nonzero()) == weight.numel()


def test_a_copy_keeps_its_own_masks(algorithm):
    """What an exponential moving average does: the copy must not follow the masks of the original."""
    twin = copy.deepcopy(algorithm)
    algorithm.mutator.masks.set(None)
    algorithm.train()
    inputs = torch.rand(2, 3, 32, 32)
    algorithm.architecture(inputs, mode='tensor').sum().backward()
    assert algorithm.mutator._gradient is not None and twin.mutator._gradient is None
    twin.mutator.keep_ratio.fill_(0.5)
    twin.eval(), algorithm.eval()
    with torch.no_grad():
        ours, theirs = (model(inputs, mode='tensor') for model in (algorithm, twin))
    assert not torch.allclose(ours, theirs)


def test_parts_of_the_architecture_are_found(algorithm):
    assert algorithm.head is algorithm.architecture.head and algorithm.with_neck
    with pytest.raises(AttributeError):
        algorithm.nothing_like_it  # noqa: B018


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(input_shape=(3, 32)), r'input_shape must be .* but it is \(3, 32\)'),
        (dict(architecture=dict(backbone=3)), 'architecture must be the config of a model with a type'),
        (dict(include='backbone'), "include must be a list of patterns over module names, but it is 'backbone'"),
    ],
)
def test_bad_values(config, change, message):
    arguments = {key: value for key, value in config.model.items() if key != 'type'}
    with pytest.raises(ConfigError, match=message):
        algorithms.DMSAlgorithm(**{**arguments, **change})
