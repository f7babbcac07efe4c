"""Pruned weights, really trained by a Runner: resumed, averaged, exported, stored compactly."""

import copy
import json

import pytest
import torch
from helpers.exact import exact_config
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdms.errors import BudgetError, CheckpointError, ConfigError
from mmdms.openmmlab.checkpoints import read_checkpoint
from mmdms.openmmlab.commands.prune import prune
from mmdms.openmmlab.export.sparse_storage import SPARSE, compress, expand

DPF = dict(type='mmdms.DPFMutator', sparsity=0.8, reallocation_interval=4)
FILTERS = dict(type='mmdms.StructuredDPFMutator', budget=dict(metric='flops', target=0.5), reallocation_interval=4)


def config_of(pytestconfig, folder, mutator, **changes):
    """Four epochs of five iterations; ``exact`` in float64, as all checkpoints here are."""
    config = exact_config(pytestconfig.rootpath, batch_size=8, epochs=4, images=40, mutator=mutator)
    config.work_dir, config.experiment_name = str(folder), folder.name
    config.merge_from_dict({'default_hooks.checkpoint.max_keep_ckpts': 4, **changes})
    init_default_scope('mmpretrain')
    return config


def train(config, **changes):
    config = copy.deepcopy(config)
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


@pytest.fixture(scope='module', params=[DPF, FILTERS], ids=['weights', 'filters'])
def whole(request, pytestconfig, tmp_path_factory):
    """Config of a run that was not interrupted, and its folder."""
    folder = tmp_path_factory.mktemp('whole')
    config = config_of(pytestconfig, folder, copy.deepcopy(request.param))
    train(config)
    return config, folder


def state_of(folder):
    return torch.load(folder / 'epoch_4.pth', weights_only=False)['state_dict']


def test_resumed_is_the_same_in_every_bit(whole, tmp_path):
    config, folder = whole
    train(config, resume=True, load_from=str(folder / 'epoch_2.pth'), work_dir=str(tmp_path))
    expected, found = state_of(folder), state_of(tmp_path)
    assert int(expected['mutator.steps']) == 20 and expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.fixture(scope='module')
def weights(pytestconfig, tmp_path_factory):
    """Config and last checkpoint of a run that prunes weights, in float32, averaged beside."""
    folder = tmp_path_factory.mktemp('weights')
    config = config_of(pytestconfig, folder, copy.deepcopy(DPF), **{'model.type': 'mmdms.DMSAlgorithm'})
    config.custom_hooks = [*config.custom_hooks, dict(type='EMAHook', momentum=0.1, update_buffers=True, priority=49)]
    train(config)
    return config, folder / 'epoch_4.pth'


def test_zeros_are_exported(weights, tmp_path, capsys):
    config, checkpoint = weights
    for averaged in (True, False):
        out = tmp_path / str(averaged)
        report = prune(config, str(checkpoint), str(out), averaged=averaged)
        assert sorted(path.name for path in out.iterdir()) == ['checkpoint.pth', 'config.py', 'report.json']
        assert json.loads((out / 'report.json').read_text()) == report
        state = torch.load(out / 'checkpoint.pth', weights_only=True)['state_dict']
        pruned = {unit['name']: unit for unit in report['units']}
        for name, unit in pruned.items():
            assert int((state[name] != 0).sum()) <= unit['kept'] < unit['total'] == state[name].numel()
        kept = sum(unit['kept'] for unit in pruned.values())
        total = sum(unit['total'] for unit in pruned.values())
        assert report['budget'] == dict(metric='sparsity', target=0.8, achieved=1 - kept / total)
        assert report['budget']['achieved'] == pytest.approx(0.8, abs=1e-3)
        params = sum(value.numel() for name, value in state.items() if 'running' not in name and 'num_b' not in name)
        assert report['params']['supernet'] == params and report['params']['subnet'] == params - total + kept
        assert report['parity'] == dict(max_abs_diff=0.0, max_abs_output=report['parity']['max_abs_output'])
        assert report['parity']['max_abs_output'] > 0
        said = capsys.readouterr().out
        assert 'sparsity: 0.8' in said and 'of the prunable weights, target 0.8000' in said
    a, b = (torch.load(tmp_path / name / 'checkpoint.pth')['state_dict'] for name in ('True', 'False'))
    assert not torch.equal(a['head.fc.weight'], b['head.fc.weight'])
    assert torch.equal(a['head.fc.weight'] == 0, b['head.fc.weight'] == 0)


def test_flops_by_hand(weights, tmp_path):
    """Of every layer the multiply-accumulates are its weights times the positions of its output."""
    config, checkpoint = weights
    report = prune(config, str(checkpoint), str(tmp_path / 'out'))
    side = {'conv1': 32, 'layer1': 32, 'layer2': 16, 'layer3': 8, 'layer4': 4, 'head': 1}
    saved = sum(
        (unit['total'] - unit['kept']) * next(v for k, v in side.items() if k in unit['name'].split('.')[:2]) ** 2
        for unit in report['units']
    )
    assert report['flops']['supernet'] - report['flops']['subnet'] == pytest.approx(saved, abs=1)


def test_compact_is_smaller_and_the_same(weights, tmp_path, capsys):
    config, checkpoint = weights
    prune(config, str(checkpoint), str(tmp_path / 'dense'))
    prune(config, str(checkpoint), str(tmp_path / 'compact'), sparse=True)
    dense, compact = (tmp_path / name / 'checkpoint.pth' for name in ('dense', 'compact'))
    assert compact.stat().st_size < 0.6 * dense.stat().st_size
    expected = read_checkpoint(dense)['state_dict']
    found = read_checkpoint(compact)['state_dict']
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    # A Runner reads it by the hook that its config has.
    config = Config.fromfile(tmp_path / 'compact' / 'config.py')
    config.merge_from_dict(dict(work_dir=str(tmp_path / 'work'), load_from=str(compact), log_level='WARNING'))
    init_default_scope('mmpretrain')
    runner = Runner.from_cfg(config)
    runner.call_hook('before_run')
    runner.load_or_resume()
    assert all(torch.equal(value, expected[name]) for name, value in runner.model.state_dict().items())


def test_what_cannot_be_exported(weights, tmp_path):
    config, checkpoint = weights
    with pytest.raises(ConfigError, match='--init scratch would leave nothing of pruned weights'):
        prune(config, str(checkpoint), str(tmp_path / 'a'), init='scratch')
    early = checkpoint.with_name('epoch_1.pth')  # a quarter of the run: 0.8 - 0.8 / 8 at most
    with pytest.raises(BudgetError, match=r'pruned to a sparsity of 0.\d+, and the config asks for 0.8'):
        prune(config, str(early), str(tmp_path / 'b'))
    assert not any(tmp_path.iterdir())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 2**31))
def test_storage_gives_back_every_bit(shape, sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator)
    tensor[torch.rand(shape, generator=generator) < sparsity] = 0
    state = dict(a=tensor, b=torch.ones(3))
    stored = compress(state, ['a'])
    assert set(stored['state_dict']) in ({'b'}, {'a', 'b'}) and 'b' not in stored[SPARSE]
    expand(stored)
    assert SPARSE not in stored and torch.equal(stored['state_dict']['a'], tensor)


@pytest.mark.parametrize('damage', [
    lambda s: s.update(values=s['values'][:-1]), lambda s: s.update(bits=s['bits'][:-1]),
    lambda s: s.pop('bits'), lambda s: s.update(shape=None), lambda s: s.update(shape=['x']),
])  # fmt: skip
def test_damaged_storage_is_refused(damage, tmp_path):
    tensor = torch.zeros(64)
    tensor[3] = 1
    stored = compress(dict(a=tensor), ['a'])
    damage(stored[SPARSE]['a'])
    torch.save(stored, tmp_path / 'damaged.pth')
    with pytest.raises(CheckpointError, match='sparse weights of checkpoint .* cannot be read'):
        read_checkpoint(tmp_path / 'damaged.pth')
