"""The hook and the optimizer constructor say what is missing."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmdms.errors import ConfigError
from mmdms.openmmlab.hooks import BudgetHook
from mmdms.openmmlab.optim import DMSOptimWrapperConstructor


class Recorder:
    """Stands for a mutator where only the calls matter."""

    def __init__(self, attached=True):
        self.attached, self.settled, self.seen, self.optimizers = attached, False, [], []
        self.masks = SimpleNamespace(set=lambda values: None)

    def set_progress(self, progress):
        self.seen.append(progress)
        self.settled = progress >= 0.5
        self.phase = 'settle' if self.settled else 'shrink'

    def attach(self, optimizer):
        self.optimizers.append(optimizer)

    def describe(self):
        return 'a search'

    def describe_structure(self):
        return 'a structure'


class Algorithm(nn.Module):
    def __init__(self, mutator):
        super().__init__()
        self.architecture = nn.Linear(2, 2)
        self.freeze_weights = False
        self.mutator = mutator


def runner(mutator, messages, **kwargs):
    logger = SimpleNamespace(info=messages.append)
    hub = SimpleNamespace(update_scalar=lambda key, value: messages.append((key, value)))
    defaults = dict(
        model=Algorithm(mutator), logger=logger, message_hub=hub, max_iters=4, optim_wrapper=None, hooks=[]
    )
    return SimpleNamespace(**{**defaults, **kwargs})


def test_progress_and_messages():
    mutator, messages = Recorder(), []
    hook = HOOKS.build(dict(type='mmdms.BudgetHook'))
    assert isinstance(hook, BudgetHook) and hook.priority == 'VERY_HIGH'
    run = runner(mutator, messages)
    hook.before_train(run)
    for iteration in range(4):
        run.iter = iteration
        hook.before_train_iter(run, iteration)
    hook.after_train(run)
    assert mutator.seen == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [each for each in messages if isinstance(each, str)] == [
        'a search', 'phase shrink at progress 0.000 of the run', 'phase settle at progress 0.500 of the run',
        'a structure',
    ]  # fmt: skip
    assert [each[1] for each in messages if each[0] == 'train/phase'] == [1, 1, 3, 3, 3]


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (dict(validate='both'), "BudgetHook.validate must be 'soft' or 'hard', but it is 'both'"),
        (dict(statistics_batches=-1), 'BudgetHook.statistics_batches must be a number of batches, or 0, but it is -1'),
        (dict(statistics_batches=2.0), 'but it is 2.0'),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(ConfigError, match=said):
        BudgetHook(**settings)


def test_hook_wants_the_constructor():
    with pytest.raises(ConfigError, match="set optim_wrapper.constructor='mmdms.DMSOptimWrapperConstructor'"):
        BudgetHook().before_train(runner(Recorder(attached=False), []))


def test_hook_wants_a_mutator():
    with pytest.raises(ConfigError, match='BudgetHook needs a model with a mutator'):
        BudgetHook().before_train(SimpleNamespace(model=nn.Linear(1, 1)))


def build(**kwargs):
    config = dict(optimizer=dict(type='SGD', lr=0.1), **kwargs)
    return OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(type='mmdms.DMSOptimWrapperConstructor', optim_wrapper_cfg=config, paramwise_cfg=None)
    )


@pytest.mark.parametrize('kwargs', [{}, dict(base_constructor='DefaultOptimWrapperConstructor')])
def test_constructor_groups_the_weights_and_attaches_the_structure(kwargs):
    constructor = build(**kwargs)
    assert isinstance(constructor, DMSOptimWrapperConstructor)
    model = Algorithm(Recorder())
    wrapper = constructor(model)
    grouped = [p for group in wrapper.optimizer.param_groups for p in group['params']]
    assert {id(p) for p in grouped} == {id(p) for p in model.architecture.parameters()}
    assert model.mutator.optimizers == [wrapper.optimizer]


def test_constructor_wants_a_mutator():
    with pytest.raises(ConfigError, match='got Linear: remove optim_wrapper.constructor'):
        build()(torch.nn.Linear(1, 1))
