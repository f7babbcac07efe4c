"""Which network a search validates, and which scores hooks count: through real Runners on the digits."""

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner

from mmdms.openmmlab.hooks.norm_statistics import NormStatistics

EPOCHS = 8  # of 3 iterations: refine begins in the 5th, the structure is fixed before the 7th
PLATEAU = dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', rule='greater', patience=0, factor=0.5, end=100)
STOPPING = dict(type='EarlyStoppingHook', monitor='accuracy/top1', min_delta=0.0, patience=3)


@HOOKS.register_module()
class Watch(Hook):
    """Notes what every validation saw, and lets it have the scores of a list, one per epoch."""

    priority = 'HIGHEST'
    scores: list = []
    seen: list = []

    def after_val_epoch(self, runner, metrics=None):
        hub = runner.message_hub
        self.seen.append((runner.epoch, hub.get_info('val/network'), float(hub.get_scalar('train/phase').current())))
        if self.scores:
            metrics['accuracy/top1'] = self.scores[runner.epoch - 1]


@HOOKS.register_module()
class StopAfter(Hook):
    """Ends a run early."""

    def __init__(self, epochs):
        self.epochs = epochs

    def after_val_epoch(self, runner, metrics=None):
        runner.train_loop.stop_training = runner.epoch == self.epochs


def search_config(root, **changes):
    config = Config.fromfile(root / 'configs/digits/dms-10_resnet18_b64_digits.py')
    config.model.architecture.backbone.update(stem_channels=4, base_channels=4)
    config.model.architecture.head.in_channels = 32
    config.model.mutator.budget.target = 0.4
    config.param_scheduler = []
    config.custom_hooks = [*config.custom_hooks, dict(type='mmdms.ResumeHook'), dict(type='Watch')]
    config.merge_from_dict({
        'train_cfg.max_epochs': EPOCHS, 'train_dataloader.batch_size': 16, 'train_dataloader.dataset.indices': 48,
        'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0, 'val_dataloader.persistent_workers': False,
        'val_dataloader.dataset.indices': 16, 'default_hooks.checkpoint.max_keep_ckpts': EPOCHS, **changes,
    })  # fmt: skip
    init_default_scope('mmpretrain')
    return config


def train(config, folder, scores=(), **changes):
    Watch.scores, Watch.seen = list(scores), []
    config = copy.deepcopy(config)
    config.work_dir, config.experiment_name = str(folder), folder.name
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def log_of(runner):
    return '\n'.join(path.read_text() for path in Path(runner.work_dir).rglob('*.log'))


def test_the_log_names_the_network_and_the_phase(pytestconfig, tmp_path):
    runner = train(search_config(pytestconfig.rootpath), tmp_path)
    networks = ['soft'] * 6 + ['final'] * 2
    assert Watch.seen == [*zip(range(1, 9), networks, [1, 1, 1, 1, 2, 2, 3, 3], strict=True)]
    log = log_of(runner)
    found = re.findall(r'validating the (\w+) network \(phase (\w+), (0\.\d{4}) of the flops\)', log)
    assert [name for name, _, _ in found] == networks
    assert [phase for _, phase, _ in found] == ['shrink'] * 4 + ['refine'] * 2 + ['settle'] * 2
    costs = [float(cost) for _, _, cost in found]
    assert costs == sorted(costs, reverse=True) or costs[-1] <= 0.4
    for phase, progress in (('shrink', '0.000'), ('refine', '0.500'), ('settle', '0.750')):
        assert f'phase {phase} at progress {progress} of the run' in log
    assert re.search(r'Epoch\(val\) \[3\]\[\d+/\d+\] .*network: soft', log)
    assert re.search(r'Epoch\(train\) .*phase: 1 ', log)


def test_accuracy_rises_as_the_loss_falls(pytestconfig, tmp_path):
    """The demo, half as wide and stopped after 5 of its 12 epochs: masks shrink to 15% of the FLOPs in 95 steps.

    Hard masks under the statistics that training gathers gave 9, 20, 44, 35 and 18%, and the soft network under
    them 8, 22, 51, 48 and 28%, while the loss fell to 0.4.
    """
    config = Config.fromfile(pytestconfig.rootpath / 'configs/digits/dms-10_resnet18_b64_digits.py')
    config.model.architecture.backbone.update(stem_channels=8, base_channels=8)
    config.model.architecture.head.in_channels = 64
    config.custom_hooks.append(dict(type='StopAfter', epochs=5))
    init_default_scope('mmpretrain')
    hub = train(config, tmp_path).message_hub
    losses, scores = (hub.get_scalar(key).data[0] for key in ('train/loss', 'val/accuracy/top1'))
    assert losses[-19:].mean() < 0.5 * losses[:19].mean()
    assert len(scores) == 5 and scores[-1] > 80 and scores[2:].mean() > 60 > scores[:2].mean()


def score_hooks(root, **changes):
    """A search with all hooks of mmengine that follow a score."""
    config = search_config(root, **changes)
    config.default_hooks.checkpoint.save_best = 'auto'
    config.custom_hooks.append(dict(STOPPING))
    config.param_scheduler = [dict(PLATEAU)]
    return config


def test_scores_count_from_the_settle_phase_on(pytestconfig, tmp_path):
    """Before it scores only fall: counted, they would stop the run after the 4th epoch, with the 1st the best."""
    runner = train(score_hooks(pytestconfig.rootpath), tmp_path, scores=[90, 80, 70, 60, 50, 40, 30, 20])
    assert runner.epoch == EPOCHS
    assert [path.name for path in tmp_path.glob('best*')] == ['best_accuracy_top1_epoch_7.pth']
    assert len(list(tmp_path.glob('epoch_*.pth'))) == EPOCHS
    hook = next(hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook))
    assert (hook.best_score, hook.wait_count) == (30, 1)
    assert runner.optim_wrapper.get_lr()['lr'] == [0.05]  # halved once: the 8th score is below the 7th
    said = 'save_best, EarlyStoppingHook, ReduceOnPlateauLR: scores count from progress 0.75 of the run on'
    assert said in log_of(runner).replace('ReduceOnPlateauLR, save_best, EarlyStoppingHook', said.split(':')[0])


def test_a_score_that_is_not_finite_stops_a_run_in_every_phase(pytestconfig, tmp_path):
    runner = train(score_hooks(pytestconfig.rootpath), tmp_path, scores=[90, float('nan')])
    assert runner.epoch == 2


def test_a_schedule_that_never_settles_is_warned_of(pytestconfig, tmp_path):
    config = score_hooks(pytestconfig.rootpath)
    config.merge_from_dict({'train_cfg.max_epochs': 2, 'model.mutator.schedule': dict(shrink=0.5, settle=1.0)})
    runner = train(config, tmp_path)
    assert 'no score will count, because the budget is met only at the end of the run' in log_of(runner)
    assert not list(tmp_path.glob('best*'))


EARLY = dict(shrink=0.25, settle=0.375)  # the structure is fixed before the 4th epoch
SCORES = [99, 98, 97, 50, 40, 60, 55, 54]


def counted(runner):
    """What hooks hold that follow a score, and the weights."""
    hook = next(hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook))
    (scheduler,) = runner.param_schedulers
    hub = runner.message_hub
    return dict(
        best=(hub.get_info('best_score'), Path(hub.get_info('best_ckpt')).name),
        stopping=(hook.best_score, hook.wait_count),
        plateau=scheduler.state_dict(),
        lr=runner.optim_wrapper.get_lr(),
        epoch=runner.epoch,
    ), runner.model.state_dict()


def assert_resumes(config, tmp_path, scores, epochs):
    """Runs that resume checkpoints of these epochs end as the run without interruption."""
    expected, weights = counted(train(config, tmp_path / 'whole', scores))
    for epoch in epochs:
        start = dict(resume=True, load_from=str(tmp_path / 'whole' / f'epoch_{epoch}.pth'))
        found, resumed = counted(train(config, tmp_path / f'from_{epoch}', scores, **start))
        assert found == expected, epoch
        assert all(torch.equal(value, weights[name]) for name, value in resumed.items()), epoch


def test_resumed_hooks_have_counted_the_same(pytestconfig, tmp_path):
    """The checkpoint of epoch 5 is written before its score is known; that of epoch 6, the best, again after."""
    config = score_hooks(pytestconfig.rootpath, **{'model.mutator.schedule': EARLY})
    assert_resumes(config, tmp_path, SCORES, [2, 5, 6])


def test_a_run_that_was_stopped_early_does_not_go_on(pytestconfig, tmp_path):
    config = score_hooks(pytestconfig.rootpath, **{'model.mutator.schedule': EARLY})
    config.custom_hooks[-1]['patience'] = 1
    assert_resumes(config, tmp_path, SCORES, [5])
    assert Watch.seen == [(5, 'final', Watch.seen[0][2])]  # validated first, and trained no further


def test_pruned_weights_are_compared_from_their_final_sparsity_on(pytestconfig, tmp_path):
    """The masks of DPFMutator move up to the end, but from the half on all of them keep equally many weights."""
    config = score_hooks(pytestconfig.rootpath)
    config.model.mutator = dict(type='mmdms.DPFMutator', sparsity=0.5, reallocation_interval=2)
    runner = train(config, tmp_path, scores=[90, 80, 70, 60, 50, 40, 30, 45])
    assert runner.epoch == EPOCHS and [each[1] for each in Watch.seen] == ['masked'] * 8
    assert [path.name for path in tmp_path.glob('best*')] == ['best_accuracy_top1_epoch_5.pth']
    hook = next(hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook))
    assert (hook.best_score, hook.wait_count) == (50, 3)


def test_validation_leaves_no_trace_in_training(pytestconfig, tmp_path):
    """The same weights, statistics and structure whichever network is validated, and without validation."""
    config = search_config(pytestconfig.rootpath)
    config.custom_hooks.append(dict(type='EMAHook', momentum=0.1, update_buffers=True, priority=49))
    hard = copy.deepcopy(config)
    hard.custom_hooks[0].update(validate='hard', statistics_batches=2)
    never = copy.deepcopy(config)
    never.val_cfg = never.val_dataloader = never.val_evaluator = None
    states = {}
    for name, each in dict(soft=config, hard=hard, never=never).items():
        runner = train(each, tmp_path / name)
        states[name] = runner.model.state_dict()
        averaged = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
        states[name] = {**states[name], **{f'averaged.{k}': v for k, v in averaged.state_dict().items()}}
        if name == 'hard':
            assert [network for _, network, _ in Watch.seen] == ['hard'] * 6 + ['final'] * 2
    for name in ('hard', 'never'):
        for key, value in states[name].items():
            assert torch.equal(value, states['soft'][key]), (name, key)


def test_statistics_of_the_network_by_hand(pytestconfig, tmp_path):
    """Of each norm, the mean over the last two batches of the moments of its input; afterwards nothing has changed."""
    config = search_config(pytestconfig.rootpath, **{'train_cfg.max_epochs': 1})
    config.model.mutator.schedule = dict(shrink=1.0, settle=1.0)
    model = train(config, tmp_path).model
    batches = [next(iter(Runner.build_dataloader(config.train_dataloader, seed=seed))) for seed in (1, 2, 3)]
    statistics = NormStatistics(2)
    for batch in batches:
        statistics.keep(batch)
    model.mutator.settled.fill_(False)
    model.mutator.progress = 0.5
    assert model.mutator.network == 'soft'
    former = {name: value.clone() for name, value in model.named_buffers()}
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    inputs = {norm: [] for norm in norms}
    handles = [
        norm.register_forward_pre_hook(lambda module, args: inputs[module].append(args[0].clone())) for norm in norms
    ]
    statistics.estimate(SimpleNamespace(model=model.eval()))
    assert not model.training and not any(norm.training for norm in norms)
    for norm in norms:
        first, second = inputs[norm]
        mean = (first.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2
        variance = (first.transpose(0, 1).flatten(1).var(1) + second.transpose(0, 1).flatten(1).var(1)) / 2
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-6)
        assert norm.momentum == 0.1
    for handle in handles:
        handle.remove()
    statistics.put_back()
    assert all(torch.equal(value, former[name]) for name, value in model.named_buffers())
