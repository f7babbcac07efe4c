"""A search that is killed and resumed ends as one that was not, in every bit."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from mmdms.openmmlab.safe_load import load_plain

from .conftest import ROOT

SEARCH = ROOT / 'configs' / 'digits' / 'dms-10_resnet18_b64_digits.py'
EPOCHS = 5

# The process kills itself when half of the bytes of one checkpoint are written.
HALF_WRITTEN = """
import os, signal
from mmengine.fileio import LocalBackend
put = LocalBackend.put
def half(self, obj, filepath):
    if str(filepath).endswith(os.environ['KILL_WHILE_WRITING']):
        put(self, obj[:len(obj) // 2], filepath)
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, obj, filepath)
LocalBackend.put = half
"""


@pytest.fixture(scope='module')
def options(tiny):
    """Of a search of five epochs with three iterations, three phases, momentum, and augmentations that draw."""
    return [
        *tiny,
        f'train_cfg.max_epochs={EPOCHS}',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'model.architecture.backbone.stem_channels=4',
        'model.architecture.backbone.base_channels=4',
        'model.architecture.head.in_channels=32',
        'model.mutator.budget.target=0.3',
        'randomness.seed=None',  # of no seed the run draws one, which the checkpoint must bring back
    ]


def start(folder, *arguments, options, config=SEARCH, **environment):
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(folder)]
    return subprocess.Popen(
        [*command, *map(str, arguments), *options],
        cwd=folder.parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, status=0):
    said = process.communicate(timeout=300)[0]
    assert process.returncode == status, said[-3000:]
    return said


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, options):
    """Work dir of a search from end to end, with a seed of its own."""
    folder = tmp_path_factory.mktemp('whole') / 'work'
    finish(start(folder, options=[*options[:-1], 'randomness.seed=7']))
    return folder


def assert_equal(a, b, where=''):
    """Tensors and numbers of two checkpoints are equal in every bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f'{where}.{index}')
    else:
        assert a == b, where


def test_killed_twice_and_resumed_is_the_same_in_every_bit(uninterrupted, options, tmp_path):
    folder = tmp_path / 'work'
    seeded = [*options[:-1], 'randomness.seed=7']

    process = start(folder, options=seeded)
    for line in process.stdout:
        if re.search(r'Epoch\(train\) \[2\]\[2/3\]', line):  # between two iterations, an epoch of checkpoints behind
            process.send_signal(signal.SIGKILL)
            break
    finish(process, status=-signal.SIGKILL)
    assert [path.name for path in folder.glob('*.pth')] == ['epoch_1.pth']

    # No seed in this config: the one of the checkpoint must serve, for the order of images too.
    (tmp_path / 'half_written.py').write_text(HALF_WRITTEN)
    config = tmp_path / 'killed.py'
    config.write_text(f"_base_ = {str(SEARCH)!r}\ncustom_imports = dict(imports=['mmdms', 'half_written'])\n")
    killed = start(folder, '--resume', options=options, config=config,
                   KILL_WHILE_WRITING='epoch_3.pth', PYTHONPATH=str(tmp_path))  # fmt: skip
    said = finish(killed, status=-signal.SIGKILL)
    assert 'resumed epoch: 1' in said and 'random states are those of the checkpoint' in said
    assert sorted(path.name for path in folder.glob('*.pth')) == ['epoch_2.pth', 'epoch_3.pth']

    said = finish(start(folder, '--resume', options=seeded))
    assert 'passed over: checkpoint ' in said and 'epoch_3.pth' in said and 'may be truncated' in said
    assert "epoch_2.pth', the newest checkpoint that is whole" in said and 'resumed epoch: 2' in said

    last = f'epoch_{EPOCHS}.pth'
    before, after = load_plain(uninterrupted / last), load_plain(folder / last)
    assert bool(before['state_dict']['mutator.settled'])
    for key in ('state_dict', 'optimizer', 'param_schedulers', 'mmdms_random'):
        assert_equal(before[key], after[key], key)
    assert [path.name for path in folder.glob('epoch*.pth')] != ['epoch_1.pth']


def test_another_search_is_not_resumed(uninterrupted, fail_tool, options):
    checkpoint = uninterrupted / f'epoch_{EPOCHS}.pth'
    cases = {
        'model.mutator.budget.target=0.2': 'model.mutator.budget.target was 0.3 and is now 0.2',
        'model.architecture.backbone.depth=34': 'model.architecture.backbone.depth was 18 and is now 34',
        'model.mutator.structure_lr=1.0': "model.mutator.structure_lr was '(not set)' and is now 1.0",
        'train_cfg.max_epochs=9': f'train_cfg.max_epochs was {EPOCHS} and is now 9',
    }
    for option, message in cases.items():
        said = fail_tool('train.py', SEARCH, '--resume', checkpoint, *options, option)
        assert message in said and 'of another search than the config' in said and 'start a new search' in said


def test_a_truncated_checkpoint_by_name_names_another(uninterrupted, fail_tool, tmp_path_factory, options):
    folder = tmp_path_factory.mktemp('named')
    whole = (uninterrupted / f'epoch_{EPOCHS}.pth').read_bytes()
    (folder / 'epoch_4.pth').write_bytes(whole)
    (folder / 'epoch_5.pth').write_bytes(whole[: len(whole) // 2])
    said = fail_tool('train.py', SEARCH, '--resume', folder / 'epoch_5.pth', *options)
    assert 'may be truncated' in said and f'--resume {folder / "epoch_4.pth"}' in said
    (folder / 'epoch_4.pth').write_bytes(whole[:100])
    said = fail_tool('train.py', SEARCH, '--work-dir', folder, '--resume', *options)
    assert 'can be resumed' in said and 'epoch_4.pth' in said and 'start again without --resume' in said


def test_a_checkpoint_that_brings_code_for_a_config_is_not_resumed(
    uninterrupted, fail_tool, tmp_path_factory, options
):
    """mmengine runs the text under ``meta.config`` when it resumes."""
    checkpoint = load_plain(uninterrupted / f'epoch_{EPOCHS}.pth')
    checkpoint['meta']['config'] = 'import os'
    path = tmp_path_factory.mktemp('code') / 'a.pth'
    torch.save(checkpoint, path)
    assert 'holds a config as code' in fail_tool('train.py', SEARCH, '--resume', path, *options)
