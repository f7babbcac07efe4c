"""A search in a loop by iterations, resumed from the middle of its data: the same in every bit, dropout included."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

ITERATIONS, HALF = 8, 3


def config_of(root, folder, optim_wrapper):
    config = Config.fromfile(root / 'configs/digits/dms-30_deit-tiny-narrow_b64_digits.py')
    config.model.architecture.backbone.update(drop_rate=0.2, drop_path_rate=0.2)
    config.model.mutator.budget.target = 0.5
    config.train_dataloader.update(batch_size=8, sampler=dict(type='InfiniteSampler', shuffle=True))
    config.train_dataloader.dataset.indices = config.val_dataloader.dataset.indices = 24
    config.train_cfg = dict(by_epoch=False, max_iters=ITERATIONS, val_interval=5)
    config.optim_wrapper.update(optim_wrapper)
    config.param_scheduler = [dict(type='CosineAnnealingLR', T_max=ITERATIONS, by_epoch=False)]
    config.default_hooks.checkpoint = dict(type='mmdms.SafeCheckpointHook', by_epoch=False, interval=HALF)
    config.custom_hooks = [*config.custom_hooks, dict(type='mmdms.ResumeHook')]
    config.log_processor = dict(by_epoch=False)
    config.randomness, config.log_level = dict(seed=3), 'WARNING'
    config.work_dir, config.experiment_name = str(folder), folder.name
    init_default_scope('mmpretrain')
    return config


@pytest.mark.parametrize('optim_wrapper', [{}, dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic')])
def test_resumed_is_the_same_in_every_bit(pytestconfig, tmp_path, amp_on_cpu, optim_wrapper):
    whole = Runner.from_cfg(config_of(pytestconfig.rootpath, tmp_path / 'whole', optim_wrapper))
    whole.train()
    expected = copy.deepcopy(whole.model.state_dict())
    config = config_of(pytestconfig.rootpath, tmp_path / 'resumed', optim_wrapper)
    config.merge_from_dict(dict(resume=True, load_from=str(tmp_path / 'whole' / f'iter_{HALF}.pth')))
    resumed = Runner.from_cfg(config)
    resumed.train()
    assert [whole.iter, resumed.iter] == [ITERATIONS, ITERATIONS]
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    if optim_wrapper:
        assert resumed.optim_wrapper.loss_scaler.state_dict() == whole.optim_wrapper.loss_scaler.state_dict()
        assert resumed.model.mutator.loss_scale == 2.0**16
