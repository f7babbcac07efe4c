"""Search, export, retrain, test: the commands of the README on real digits, a few iterations each."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from .conftest import ROOT

SEARCH = ROOT / 'configs' / 'digits' / 'dms-10_resnet18_b64_digits.py'
MMPRETRAIN_TOOLS = 'mmpretrain/.mim/tools'


def accuracies(log):
    return [float(value) for value in re.findall(r'accuracy/top1: ([\d.]+)', log)]


@pytest.fixture(scope='module')
def searched(tmp_path_factory, run_tool, tiny):
    """Work dir and log of a search of 12 iterations."""
    folder = tmp_path_factory.mktemp('searched')
    log = run_tool('train.py', SEARCH, '--work-dir', folder, *tiny, 'train_cfg.max_epochs=4', cwd=folder)
    return folder, log


@pytest.fixture(scope='module')
def pruned(searched, run_tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pruned') / 'out'
    printed = run_tool('prune.py', SEARCH, searched[0] / 'epoch_4.pth', '--out-dir', folder, cwd=searched[0])
    return folder, printed


def test_search_logs_its_budget(searched):
    log = searched[1]
    targets = [float(value) for value in re.findall(r' target: ([\d.]+)', log)]
    assert targets[0] == 1.0 and targets == sorted(targets, reverse=True)
    assert targets[-1] == pytest.approx(0.1)
    for key in ('loss', 'budget_loss', 'soft_cost', 'hard_cost'):
        assert re.search(rf' {key}: [\d.]+', log), key
    soft, hard = ([float(v) for v in re.findall(rf' {key}: ([\d.]+)', log)] for key in ('soft_cost', 'hard_cost'))
    assert hard[-1] == pytest.approx(soft[-1], rel=0.02)
    fixed = float(re.search(r'structure fixed: flops at ([\d.]+) of the supernet', log).group(1))
    assert 0.09 < fixed <= 0.1


def test_report(pruned):
    report = json.loads((pruned[0] / 'report.json').read_text())
    for metric in ('flops', 'params'):
        figures = report[metric]
        assert set(figures) == {'supernet', 'subnet', 'ratio'}
        assert figures['ratio'] == pytest.approx(figures['subnet'] / figures['supernet'])
    assert report['budget']['metric'] == 'flops' and report['budget']['target'] == 0.1
    assert 0.099 <= report['budget']['achieved'] <= 0.1
    assert 0 <= report['parity']['max_abs_diff'] <= 1e-8 * report['parity']['max_abs_output']
    assert all(set(unit) == {'name', 'kind', 'total', 'kept'} for unit in report['units'])
    assert {unit['kind'] for unit in report['units']} == {'channels', 'depth'}
    assert 'achieved' in pruned[1] and 'parity' in pruned[1]


def test_no_cliff_at_export(searched, pruned, run_tool, tiny, tmp_path):
    folder = pruned[0]
    log = run_tool(
        'test.py', folder / 'config.py', folder / 'checkpoint.pth', '--work-dir', tmp_path, *tiny, cwd=tmp_path
    )
    assert accuracies(log)[-1] == pytest.approx(accuracies(searched[1])[-1], abs=1e-3)


def test_loads_strictly_in_a_fresh_process(pruned):
    program = """
import sys, torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
config = Config.fromfile(sys.argv[1] + '/config.py')
init_default_scope(config.default_scope)
model = MODELS.build(config.model)
state = torch.load(sys.argv[1] + '/checkpoint.pth', weights_only=True)['state_dict']
model.load_state_dict(state, strict=True)
assert model(torch.rand(1, 3, 32, 32), mode='tensor').shape == (1, 10)
print(type(model).__module__, type(model).__name__)
"""
    done = subprocess.run([sys.executable, '-c', program, str(pruned[0])], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ['mmpretrain.models.classifiers.image', 'ImageClassifier']


def test_retrains_and_resumes(pruned, run_tool, tiny, tmp_path):
    config = pruned[0] / 'config.py'
    log = run_tool('train.py', config, '--work-dir', tmp_path, *tiny, cwd=tmp_path)
    assert 'Load checkpoint from' in log and 'budget_loss' not in log and 'Epoch(val) [1]' in log
    log = run_tool(
        'train.py', config, '--work-dir', tmp_path, '--resume', *tiny, 'train_cfg.max_epochs=2', cwd=tmp_path
    )
    assert 'resumed epoch: 1' in log and 'Epoch(val) [2]' in log


def test_trains_with_mmpretrains_own_script(pruned, tiny, tmp_path):
    import mmpretrain

    script = f'{os.path.dirname(mmpretrain.__path__[0])}/{MMPRETRAIN_TOOLS}/train.py'
    command = [sys.executable, script, str(pruned[0] / 'config.py'), '--work-dir', str(tmp_path), *map(str, tiny)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_scratch_config_does_not_load(searched, run_tool, tmp_path):
    folder = tmp_path / 'out'
    run_tool('prune.py', SEARCH, searched[0] / 'epoch_4.pth', '--out-dir', folder, '--init', 'scratch', cwd=tmp_path)
    assert Config.fromfile(folder / 'config.py').load_from is None


def test_checkpoint_from_before_the_structure_was_fixed(run_tool, tiny, tmp_path):
    run_tool('train.py', SEARCH, '--work-dir', tmp_path, *tiny, 'train_cfg.max_epochs=4',
             'default_hooks.checkpoint.max_keep_ckpts=4', cwd=tmp_path)  # fmt: skip
    printed = run_tool('prune.py', SEARCH, tmp_path / 'epoch_1.pth', '--out-dir', tmp_path / 'out', cwd=tmp_path)
    assert 'before the search fixed its structure' in printed
    assert 0.099 <= json.loads((tmp_path / 'out' / 'report.json').read_text())['budget']['achieved'] <= 0.1


def test_a_smaller_budget_than_searched_is_refused(searched, run_tool, tmp_path):
    options = ['--out-dir', tmp_path / 'out', '--cfg-options', 'model.mutator.budget.target=0.05']
    said = run_tool('prune.py', SEARCH, searched[0] / 'epoch_4.pth', *options, cwd=tmp_path, status=2)
    assert re.search(r'was fixed at 0\.\d+', said) and 'allows 0.05' in said and not (tmp_path / 'out').exists()


def test_existing_output_is_kept(searched, pruned, run_tool, tmp_path):
    before = {path: path.read_bytes() for path in pruned[0].iterdir()}
    arguments = [SEARCH, searched[0] / 'epoch_4.pth', '--out-dir', pruned[0]]
    said = run_tool('prune.py', *arguments, cwd=tmp_path, status=2)
    assert 'has files in it: name another, or pass --overwrite' in said
    assert {path: path.read_bytes() for path in pruned[0].iterdir()} == before


@pytest.fixture
def truncated(searched, tmp_path_factory):
    path = tmp_path_factory.mktemp('bad') / 'truncated.pth'
    path.write_bytes((searched[0] / 'epoch_4.pth').read_bytes()[:1000])
    return path


def test_bad_input_to_prune(searched, truncated, fail_tool, digits_config, tmp_path_factory):
    good = searched[0] / 'epoch_4.pth'
    other = tmp_path_factory.mktemp('other') / 'other.pth'
    torch.save({'state_dict': {'backbone.conv1.weight': torch.zeros(1)}}, other)
    cases = [
        ([SEARCH, 'nowhere.pth'], "no checkpoint at 'nowhere.pth'"),
        ([SEARCH, truncated], 'cannot be read'),
        ([SEARCH, other], 'is of another architecture'),
        ([SEARCH, good, '--cfg-options', 'model.architecture.backbone.depth=34'], 'is of another architecture'),
        ([digits_config, good], 'is no search config'),
        (
            [SEARCH, good, '--cfg-options', 'model.mutator.budget.target=0'],
            'must be a share of the supernet in (0, 1]',
        ),
        ([SEARCH, good, '--cfg-options', 'model.architecture.type=Nope'], 'Nope'),
    ]
    for arguments, message in cases:
        assert message in fail_tool('prune.py', *arguments, '--out-dir', 'out')


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.mutator.budget.target=1.5', 'must be a share of the supernet'),
        ('model.mutator.budget.target=0.0001', 'is out of reach'),
        ('model.mutator.budget.metric=latency', "must be one of ['flops', 'params']"),
        ('model.mutator.schedule.shrink=0.9', '0 < shrink <= settle <= 1'),
        ('model.mutator.divisor=0', "divisor must be 'auto' or a whole number"),
        ('model.exclude=[nothing.like.it]', "exclude pattern 'nothing.like.it' matches no"),
        ('model.architecture.type=Nope', 'Nope'),
    ],
)
def test_bad_input_to_search(fail_tool, option, message):
    assert message in fail_tool('train.py', SEARCH, '--cfg-options', option)


def test_search_on_two_processes(run_tool, tiny, tmp_path):
    """Every rank holds the same structure: DDP would fail, and the log would not end with a structure."""
    arguments = [SEARCH, 2, '--work-dir', tmp_path, *tiny, 'train_cfg.max_epochs=4']
    log = run_tool('dist_train.sh', *arguments, cwd=tmp_path)
    assert 'structure fixed: flops at 0.0' in log or 'structure fixed: flops at 0.1' in log
    assert (tmp_path / 'epoch_4.pth').is_file()
