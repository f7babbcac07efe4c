"""Bad values of a search config, and files that are not what they say: one line, exit status 2, nothing written."""

import os

import pytest
import torch

from mmdms.openmmlab.safe_load import FORCE, load_plain

from .conftest import ROOT

SEARCH = ROOT / 'configs' / 'digits' / 'dms-10_resnet18_b64_digits.py'
# The network of the checkpoint of format 1, which fits it.
NARROW = [
    'model.architecture.backbone.stem_channels=2',
    'model.architecture.backbone.base_channels=2',
    'model.architecture.head.in_channels=16',
    'model.mutator.budget.target=0.3',
]
V1 = ROOT / 'tests' / 'fixtures' / 'search_v1.pth'

# What follows the settings of the search, and what must be said. All are found before data load.
OPTIONS = {
    'model.archtecture.type=x': "model.archtecture is no setting of DMSAlgorithm: did you mean 'architecture'?",
    'model.freeze_weight=True': "model.freeze_weight is no setting of DMSAlgorithm: did you mean 'freeze_weights'?",
    'model.freeze_weights=yes': "model.freeze_weights must be True or False, but it is 'yes'",
    'model.type=mmdms.DMSAlgorythm': "model.type='mmdms.DMSAlgorythm' is not a model known",
    'model.architecture=resnet': "model.architecture must be the config of a model with a type, but it is 'resnet'",
    'model.architecture.type=Nope': "model.architecture.type='Nope' is not a model known",
    'model.input_shape=32': 'model.input_shape must be (channels, height, width), three positive whole numbers',
    'model.input_shape=[3,32]': 'three positive whole numbers, but it is [3, 32]',
    'model.input_shape=[3,32,0]': 'three positive whole numbers, but it is [3, 32, 0]',
    'model.input_shape=[3,32,32.5]': 'three positive whole numbers, but it is [3, 32, 32.5]',
    'model.include=backbone': "model.include must be a list of patterns over module names, but it is 'backbone'",
    'model.include=[1,2]': 'model.include must be a list of patterns over module names, but it is [1, 2]',
    'model.include=[bone.*]': "model.include pattern 'bone.*' matches no searchable layer",
    'model.exclude=[nothing.like.it]': "model.exclude pattern 'nothing.like.it' matches no searchable layer",
    'model.exclude=[*]': 'there is nothing to search: every element of the network is frozen or left out',
    'model.mutator=DMS': "model.mutator must be a dict, but it is 'DMS'",
    'model.mutator.type=mmdms.DMSMutatr': "is not a mutator: did you mean 'mmdms.DMSMutator'?",
    'model.mutator.type=3': 'model.mutator.type=3 is not a mutator',
    'model.mutator.lr=1': 'model.mutator.lr is no setting of DMSMutator',
    'model.mutator.structure_lr=fast': "model.mutator.structure_lr must be a finite number, but it is 'fast'",
    'model.mutator.structure_lr=-1.0': 'mutator.structure_lr must not be negative',
    'model.mutator.structure_lr=1e999': 'model.mutator.structure_lr must be a finite number, but it is inf',
    'model.mutator.structure_momentum=1.0': 'mutator.structure_momentum must be in [0, 1), but it is 1.0',
    'model.mutator.structure_momentum=True': 'model.mutator.structure_momentum must be a finite number',
    'model.mutator.importance_decay=-0.1': 'mutator.importance_decay must be in [0, 1), but it is -0.1',
    'model.mutator.importance_decay=None': 'model.mutator.importance_decay must be a finite number, but it is None',
    'model.mutator.divisor=0': "model.mutator.divisor must be 'auto' or a whole number from 1, but it is 0",
    'model.mutator.divisor=2.5': "model.mutator.divisor must be 'auto' or a whole number from 1, but it is 2.5",
    'model.mutator.divisor=eight': "must be 'auto' or a whole number from 1, but it is 'eight'",
    'model.mutator.mutables=depth': 'model.mutator.mutables must be a dict such as dict(heads=dict(',
    'model.mutator.mutables.head=False': "mutables.head is no kind of mutable unit (did you mean 'heads'?)",
    'model.mutator.mutables.heads=2': 'mutables.heads must be a dict of options, True or False, but it is 2',
    'model.mutator.mutables.depth.divisor=2': 'model.mutator.mutables.depth.divisor is no setting of depth: there are',
    'model.mutator.mutables.channels.minimum=0': 'channels.minimum must be a whole number from 1, but it is 0',
    'model.mutator.budget=0.5': 'model.mutator.budget must be dict(metric=',
    'model.mutator.budget.tarket=0.5': "model.mutator.budget.tarket is no setting of a budget: did you mean 'target'?",
    'model.mutator.budget.metric=latency': "model.mutator.budget.metric must be one of ['flops', 'params']",
    'model.mutator.budget.metric=[flops]': "model.mutator.budget.metric must be one of ['flops', 'params']",
    'model.mutator.budget.target=1.5': 'model.mutator.budget.target must be a share of the supernet in (0, 1]',
    'model.mutator.budget.target=0': 'model.mutator.budget.target must be a share of the supernet in (0, 1]',
    'model.mutator.budget.target=50%': "in (0, 1], but it is '50%'",
    'model.mutator.budget.target=True': 'in (0, 1], but it is True',
    'model.mutator.budget.target=0.0001': 'model.mutator: budget target 0.0001 of flops is out of reach',
    'model.mutator.schedule=0.5': 'model.mutator.schedule must be a dict, but it is 0.5',
    'model.mutator.schedule.shrnk=0.5': 'model.mutator.schedule.shrnk is no setting of the schedule: did you mean',
    'model.mutator.schedule.shrink=half': "model.mutator.schedule.shrink must be a finite number, but it is 'half'",
    'model.mutator.schedule.shrink=0.9': 'model.mutator.schedule: schedule needs 0 < shrink <= settle <= 1',
    'model.mutator.schedule.shrink=0': 'model.mutator.schedule: schedule needs 0 < shrink <= settle <= 1',
    'model.mutator.schedule.settle=1.5': 'model.mutator.schedule: schedule needs 0 < shrink <= settle <= 1',
    'custom_hooks=BudgetHook': "custom_hooks must be a list of configs of hooks, but it is 'BudgetHook'",
    'custom_hooks.0.type=CheckInvalidLossHook': "must hold dict(type='mmdms.BudgetHook') once, but holds it 0 times",
    'custom_hooks.0.target=0.5': 'custom_hooks[0].target is no setting of BudgetHook',
    'optim_wrapper.constructor=None': 'optim_wrapper.constructor is None, which does not move the structure',
    'optim_wrapper.constructor=DMSConstructor': "optim_wrapper.constructor='DMSConstructor' is not known",
    'optim_wrapper.base_constructor=Nope': "optim_wrapper.base_constructor='Nope' is not known",
    'train_cfg.max_epochs=many': "train_cfg.max_epochs must be a whole number from 1, but it is 'many'",
    'train_cfg.max_epochs=0': 'train_cfg.max_epochs must be a whole number from 1, but it is 0',
    'retrain=longer': "retrain must be a dict, but it is 'longer'",
}  # fmt: skip


@pytest.mark.parametrize('option', OPTIONS)
def test_a_value_that_cannot_be(fail_tool, option, monkeypatch):
    from mmdms.openmmlab.datasets.digits import DigitsDataset

    monkeypatch.setattr(DigitsDataset, '__init__', lambda *a, **k: pytest.fail('data load'))
    assert OPTIONS[option] in fail_tool('train.py', SEARCH, '--cfg-options', *NARROW, option)


PRUNING = {
    "type='mmdms.DPFMutator'": 'model.mutator.sparsity is missing: DPFMutator needs it',
    "type='mmdms.DPFMutator', sparsity=1.5": 'sparsity must be a share of the weights in (0, 1), but it is 1.5',
    "type='mmdms.DPFMutator', sparsity=0.9, budget=0.5": 'model.mutator.budget is no setting of DPFMutator',
    "type='mmdms.DPFMutator', sparsity=0.9, method='mask'": "mutator.method must be one of ['feedback',",
    "type='mmdms.DPFMutator', sparsity=0.9, scope='net'": "mutator.scope must be one of ['global', 'layer']",
    "type='mmdms.DPFMutator', sparsity=0.9, keep_dense=['head']": 'mutator.keep_dense must be a list out of',
    "type='mmdms.DPFMutator', sparsity=0.9, reallocation_interval=1.5": 'must be a number of steps from 1',
    "type='mmdms.DPFMutator', sparsity=0.9, schedule=dict(shrink=0.5)":
        'model.mutator.schedule.shrink is no setting of the schedule',
    "type='mmdms.DPFMutator', sparsity=0.9, schedule=dict(begin=0.7)":
        'model.mutator.schedule: schedule needs 0 <= begin <= end <= settle <= 1',
    "type='mmdms.DPFMutator', sparsity=0.9, method='snip', schedule=dict(end=0.5)":
        "model.mutator.schedule: schedule.end is no setting of method='snip': it takes none",
    "type='mmdms.StructuredDPFMutator', budget=dict(metric='flops', target=0.0001)": 'of flops is out of reach',
    "type='mmdms.StructuredDPFMutator', sparsity=0.9": 'model.mutator.sparsity is no setting of StructuredDPFMutator',
}  # fmt: skip


@pytest.mark.parametrize('mutator', PRUNING)
def test_a_pruning_that_cannot_be(fail_tool, tmp_path_factory, mutator):
    assert PRUNING[mutator] in fail_tool('train.py', written(tmp_path_factory, f'mutator=dict({mutator})'))


def test_pruning_trains_weights(fail_tool, tmp_path_factory):
    frozen = "freeze_weights=True, mutator=dict(type='mmdms.DPFMutator', sparsity=0.9)"
    said = fail_tool('train.py', written(tmp_path_factory, frozen))
    assert 'model.freeze_weights must be False with DPFMutator' in said


def written(tmp_path_factory, model):
    """A config on the digits with these settings of the algorithm."""
    config = tmp_path_factory.mktemp('config') / 'prune.py'
    config.write_text(
        f'_base_ = {str(SEARCH)!r}\n'
        "model = dict(_delete_=True, type='mmdms.DMSAlgorithm', architecture=_base_.model.architecture,\n"
        f'    input_shape=(3, 32, 32), {model})\n'
    )
    return config


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ("type='mmdms.DMSAlgorithm', architecture=_base_.model, input_shape=(3, 32, 32)", 'model.mutator is missing'),
        ("type='mmdms.DMSAlgorithm', input_shape=(3, 32, 32), mutator=dict(type='mmdms.DMSMutator')",
         'model.architecture is missing'),
        ("type='mmdms.DMSAlgorithm', architecture=_base_.model, mutator=dict(type='mmdms.DMSMutator')",
         'model.input_shape is missing'),
        ("type='mmdms.DMSAlgorithm', architecture=_base_.model, input_shape=(3, 32, 32), mutator=dict()",
         'model.mutator.type=None is not a mutator'),
        ("type='mmdms.DMSAlgorithm', architecture=_base_.model, input_shape=(3, 32, 32), "
         "mutator=dict(type='mmdms.DMSMutator')", 'model.mutator.budget is missing'),
        ("type='mmdms.DMSAlgorithm', architecture=_base_.model, input_shape=(3, 32, 32), "
         "mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops'))",
         'model.mutator.budget.target is missing'),
    ],
)  # fmt: skip
def test_something_that_lacks(fail_tool, tmp_path_factory, model, message):
    config = tmp_path_factory.mktemp('config') / 'search.py'
    config.write_text(
        f'_base_ = {str(ROOT / "configs" / "digits" / "resnet18_b64_digits.py")!r}\n'
        f'model = dict(_delete_=True, {model})\n'
        "optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')\n"
        "custom_hooks = [dict(type='mmdms.BudgetHook')]\n"
    )
    assert message in fail_tool('train.py', config)


class Runs:
    """Pickled as a call: whoever loads it the ordinary way makes it."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    'command',
    [
        ['prune.py', 'FILE', '--out-dir', 'out', '--cfg-options', *NARROW],
        ['test.py', 'FILE', '--cfg-options', *NARROW],
        ['train.py', '--resume', 'FILE', '--cfg-options', *NARROW],
        ['train.py', '--cfg-options', 'load_from=FILE', *NARROW],
        ['train.py', '--cfg-options', *NARROW, 'model.architecture.init_cfg.type=Pretrained',
         'model.architecture.init_cfg.checkpoint=FILE'],
    ],
    ids=['prune', 'test', 'resume', 'load_from', 'init_cfg'],
)  # fmt: skip
def test_a_file_that_would_run_code_is_refused(fail_tool, tmp_path_factory, command, monkeypatch):
    folder = tmp_path_factory.mktemp('hostile')
    content = load_plain(V1)
    content['meta']['note'] = Runs(os.mkdir, str(folder / 'executed'))
    torch.save(content, folder / 'hostile.pth')
    tool, *arguments = [part.replace('FILE', str(folder / 'hostile.pth')) for part in command]
    said = fail_tool(tool, SEARCH, *arguments)
    assert "holds 'posix.mkdir', which is no plain data" in said and not (folder / 'executed').exists()
    monkeypatch.delenv(FORCE)
    torch.load(folder / 'hostile.pth', weights_only=False)  # what it would have done
    assert (folder / 'executed').exists()


@pytest.mark.parametrize(
    'command',
    [
        ['prune.py', 'FILE', '--out-dir', 'out', '--cfg-options', *NARROW],
        ['train.py', '--resume', 'FILE', '--cfg-options', *NARROW],
        ['train.py', '--cfg-options', 'load_from=FILE', *NARROW],
    ],
    ids=['prune', 'resume', 'load_from'],
)
def test_a_search_of_a_newer_format_is_refused(fail_tool, tmp_path_factory, command):
    path = tmp_path_factory.mktemp('newer') / 'newer.pth'
    content = load_plain(V1)
    content['state_dict']._metadata['mutator']['version'] = 2
    torch.save(content, path)
    tool, *arguments = [part.replace('FILE', str(path)) for part in command]
    said = fail_tool(tool, SEARCH, *arguments)
    assert 'has search format 2; this mmdms reads up to 1: update mmdms' in said


def test_at_least_forty_bad_inputs():
    assert len(OPTIONS) >= 40


def test_the_docs_list_them():
    text = (ROOT / 'docs' / 'reliability.md').read_text(encoding='utf-8')
    assert [option for option in OPTIONS if f'`{option}`' not in text] == []
    assert f'{len(OPTIONS) + 6} of them' in text
