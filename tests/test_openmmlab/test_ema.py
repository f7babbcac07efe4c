"""Weights are averaged during a search, its structure is not: really trained, with mmengine's own EMA hook."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner

from mmdms.errors import CheckpointError
from mmdms.openmmlab.commands.prune import prune

EMA = dict(type='EMAHook', momentum=0.1, update_buffers=True, priority=49)


@HOOKS.register_module()
class StructureSeen(Hook):
    """Notes the structure before validation (``LOWEST`` comes after the swap of weights) and the weights then."""

    priority = 'LOWEST'
    seen: list = []

    def after_train_epoch(self, runner):
        self.trained = runner.model.mutator.hard_mask().clone(), weight(runner.model).clone()

    def before_val_epoch(self, runner):
        mask = runner.model.mutator.hard_mask().clone()
        self.seen.append((*self.trained, mask, weight(runner.model).clone()))


def weight(model):
    return model.state_dict()['architecture.backbone.conv1.weight']


@pytest.fixture(scope='module')
def config(pytestconfig):
    config = Config.fromfile(pytestconfig.rootpath / 'configs/digits/dms-10_resnet18_b64_digits.py')
    config.model.architecture.backbone.update(stem_channels=4, base_channels=4)
    config.model.architecture.head.in_channels = 32
    config.model.mutator.budget.target = 0.4
    config.merge_from_dict({
        'train_cfg.max_epochs': 4, 'train_dataloader.batch_size': 16, 'train_dataloader.dataset.indices': 48,
        'val_dataloader.dataset.indices': 16, 'log_level': 'WARNING', 'default_hooks.checkpoint.max_keep_ckpts': 4,
    })  # fmt: skip
    config.custom_hooks = [*config.custom_hooks, EMA, dict(type='StructureSeen')]
    init_default_scope('mmpretrain')
    return config


def train(config, folder, **changes):
    StructureSeen.seen = []
    config = copy.deepcopy(config)
    config.work_dir, config.experiment_name = str(folder), folder.name
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def assert_saved(runner, path):
    """What the last checkpoint holds: averaged weights, and the structure that was fixed."""
    mutator = runner.model.mutator
    saved = torch.load(path, weights_only=False)
    for state, prefix in ((saved['state_dict'], ''), (saved['ema_state_dict'], 'module.')):
        assert bool(state[f'{prefix}mutator.settled'])
        for name in ('final_mask', 'keep_ratio', 'importance'):
            assert torch.equal(state[f'{prefix}mutator.{name}'], getattr(mutator, name))
    averaged = next(hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    assert torch.equal(weight(averaged), saved['state_dict']['architecture.backbone.conv1.weight'])
    assert not torch.equal(weight(averaged), weight(runner.model))


def test_structure_is_not_averaged(config, tmp_path):
    runner = train(config, tmp_path)
    assert bool(runner.model.mutator.settled) and not bool(runner.model.mutator.final_mask.all())
    assert_saved(runner, tmp_path / 'epoch_4.pth')
    assert len(StructureSeen.seen) == 4
    for mask, raw, validated_mask, validated in StructureSeen.seen:
        assert torch.equal(mask, validated_mask)
        assert not torch.equal(raw, validated)
    # The structure moved between validations, so the comparison could have failed.
    assert not torch.equal(StructureSeen.seen[0][0], StructureSeen.seen[-1][0])


def test_resumed(config, tmp_path):
    train(config, tmp_path)
    resumed = train(config, tmp_path, resume=True, load_from=str(tmp_path / 'epoch_2.pth'))
    assert [resumed.epoch, len(StructureSeen.seen)] == [4, 2]
    assert_saved(resumed, tmp_path / 'epoch_4.pth')


@pytest.fixture(scope='module')
def searched(config, tmp_path_factory):
    """Config, model and last checkpoint of a search with averaged weights."""
    folder = tmp_path_factory.mktemp('averaged')
    model = train(config, folder).model
    return config, model, folder / 'epoch_4.pth'


def head_of(folder):
    return torch.load(folder / 'checkpoint.pth', weights_only=True)['state_dict']['head.fc.bias']


def test_which_weights_are_exported(searched, tmp_path, capsys):
    """The bias of the classifier is cut by no structure, so that it shows what was taken."""
    config, model, checkpoint = searched
    last = model.state_dict()['architecture.head.fc.bias']
    averaged = torch.load(checkpoint, weights_only=False)['state_dict']['architecture.head.fc.bias']
    assert not torch.equal(last, averaged)
    structures = []
    for choice, expected, said in (
        (None, averaged, 'weights: averaged by EMAHook, as validated; --no-ema takes those of the last step'),
        (True, averaged, 'weights: averaged by EMAHook'),
        (False, last, 'weights: those of the last step, not their averages'),
    ):
        folder = tmp_path / str(choice)
        prune(config, str(checkpoint), str(folder), averaged=choice)
        torch.testing.assert_close(head_of(folder), expected, rtol=0, atol=0)
        assert said in capsys.readouterr().out
        structures.append((folder / 'subnet.json').read_text())
    assert len(set(structures)) == 1


def test_no_averaged_weights(searched, tmp_path):
    config, model, _ = searched
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'plain.pth')
    with pytest.raises(CheckpointError, match=r'holds no averaged weights \(no ema_state_dict\): leave --ema out'):
        prune(config, str(tmp_path / 'plain.pth'), str(tmp_path / 'out'), averaged=True)
    assert not (tmp_path / 'out').exists()


def test_half_of_the_last_weights(searched, tmp_path):
    config, _, checkpoint = searched
    content = torch.load(checkpoint, weights_only=False)
    del content['ema_state_dict']['module.architecture.head.fc.bias']
    content = {key: content[key] for key in ('state_dict', 'ema_state_dict')}
    torch.save(content, tmp_path / 'half.pth')
    with pytest.raises(CheckpointError, match='is damaged: its state_dict has .* leave --no-ema out'):
        prune(config, str(tmp_path / 'half.pth'), str(tmp_path / 'out'), averaged=False)
