"""Prune while training, export, test: the commands on real digits, a few iterations each."""

import json
import re

import pytest
import torch

from .conftest import ROOT

CONFIGS = ROOT / 'configs' / 'digits'
EPOCHS = 4


def accuracy(log):
    return float(re.findall(r'accuracy/top1: ([\d.]+)', log)[-1])


@pytest.mark.parametrize(('name', 'arguments', 'said'), [
    ('dpf-90_resnet20_b64_digits', ['--sparse'], 'masks are final: sparsity 0.9000 of the prunable weights'),
    ('dpf-filters-50_resnet20_b64_digits', [], 'structure fixed: flops at 0.'),
])  # fmt: skip
def test_what_was_trained_is_exported(run_tool, tiny, tmp_path, name, arguments, said):
    config, out = CONFIGS / f'{name}.py', tmp_path / 'out'
    log = run_tool('train.py', config, '--work-dir', tmp_path, *tiny, f'train_cfg.max_epochs={EPOCHS}', cwd=tmp_path)
    assert said in log
    printed = run_tool(
        'prune.py', config, tmp_path / f'epoch_{EPOCHS}.pth', '--out-dir', out, *arguments, cwd=tmp_path
    )
    report = json.loads((out / 'report.json').read_text())
    assert report['parity']['max_abs_diff'] <= 1e-8 * report['parity']['max_abs_output'] and 'parity' in printed
    if arguments:
        assert report['budget']['achieved'] == pytest.approx(0.9, abs=1e-3)
        dense = 4 * report['params']['supernet']
        assert (out / 'checkpoint.pth').stat().st_size < 0.4 * dense
    else:
        assert report['budget']['metric'] == 'flops' and 0.45 < report['budget']['achieved'] <= 0.5
        state = torch.load(out / 'checkpoint.pth', weights_only=True)['state_dict']
        assert sum(v.numel() for v in state.values()) < report['params']['supernet']
    tested = run_tool(
        'test.py', out / 'config.py', out / 'checkpoint.pth', '--work-dir', tmp_path, *tiny, cwd=tmp_path
    )
    assert accuracy(tested) == pytest.approx(accuracy(log), abs=1e-3)
