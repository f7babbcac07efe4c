"""``tools/train.py`` and ``tools/test.py`` on real digits, a few iterations."""

import json
import re

import pytest
import torch
from mmengine.config import Config

ANOTHER = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory, run_tool, digits_config, tiny):
    folder = tmp_path_factory.mktemp('trained')
    # From another folder than the repository, with the default work dir.
    log = run_tool('train.py', digits_config, *tiny, cwd=folder)
    return folder / 'work_dirs' / digits_config.stem, log


def last_accuracy(log):
    return float(re.findall(r'accuracy/top1: ([\d.]+)', log)[-1])


def test_train(trained, digits_config):
    work_dir, log = trained
    losses = [float(value) for value in re.findall(r'Epoch\(train\).* loss: ([\d.]+)', log)]
    assert len(losses) == 3 and all(1 < loss < 4 for loss in losses)
    assert (work_dir / 'epoch_1.pth').is_file() and (work_dir / digits_config.name).is_file()


def test_resume(trained, run_tool, digits_config, tiny, tmp_path):
    checkpoint = trained[0] / 'epoch_1.pth'
    arguments = ['train.py', digits_config, '--work-dir', tmp_path, '--resume']
    log = run_tool(*arguments, checkpoint, *tiny, 'train_cfg.max_epochs=2', cwd=tmp_path)
    assert 'resumed epoch: 1' in log and '[1][1/3]' not in log and '[2][3/3]' in log
    log = run_tool(*arguments, *tiny, 'train_cfg.max_epochs=3', cwd=tmp_path)
    assert 'resumed epoch: 2' in log and '[2][1/3]' not in log and '[3][3/3]' in log


def test_test_repeats_the_last_validation(trained, run_tool, digits_config, tiny, tmp_path):
    work_dir, log = trained
    out = tmp_path / 'metrics.json'
    arguments = ['--work-dir', tmp_path, '--out', out, '--out-item', 'metrics', *tiny]
    run_tool('test.py', digits_config, work_dir / 'epoch_1.pth', *arguments, cwd=tmp_path)
    assert json.loads(out.read_text())['accuracy/top1'] == pytest.approx(last_accuracy(log), abs=1e-3)


def test_checkpoint_of_another_architecture(trained, run_tool, digits_config, tmp_path):
    arguments = [digits_config, trained[0] / 'epoch_1.pth', '--cfg-options', 'model.backbone.depth=34']
    said = run_tool('test.py', *arguments, cwd=tmp_path, status=2)
    assert 'is of another architecture than the config' in said.splitlines()[-1]


def test_unmodified_mmpretrain_config(run_tool, tmp_path):
    datasets = [f'{split}_dataloader.dataset.{option}' for split in ('train', 'val')
                for option in ('type=mmdms.DigitsDataset', 'indices=32')]  # fmt: skip
    log = run_tool('train.py', ANOTHER, '--cfg-options', 'train_cfg.max_epochs=1', *datasets, cwd=tmp_path)
    assert 'Epoch(val) [1]' in log
    assert (tmp_path / 'work_dirs' / 'resnet18_8xb16_cifar10' / 'epoch_1.pth').is_file()


def test_a_search_in_mixed_precision(run_tool, digits_config, tiny, tmp_path):
    """In bfloat16 where there is no GPU."""
    search = digits_config.with_name('dms-10_resnet18_b64_digits.py')
    log = run_tool('train.py', search, '--amp', '--work-dir', tmp_path, *tiny, cwd=tmp_path)
    assert torch.cuda.is_available() or 'No GPU found: --amp trains in bfloat16 on the CPU' in log
    assert 'structure fixed: flops at' in log
    kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmdms.CPUAmpOptimWrapper'
    assert Config.fromfile(tmp_path / search.name).optim_wrapper.type == kind
    losses = [float(value) for value in re.findall(r'Epoch\(train\).* loss: ([\d.]+)', log)]
    assert len(losses) == 3 and all(1 < loss < 4 for loss in losses)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], "error: no config at 'nowhere.py'"),
        (['mmpretrain::_base_/models/resnet18.py'], 'does not set train_dataloader, train_cfg, optim_wrapper'),
        ([None, '--resume', 'nowhere.pth'], "error: no checkpoint at 'nowhere.pth'"),
        ([None, '--auto-scale-lr'], 'set auto_scale_lr=dict(base_batch_size=...)'),
        ([None, '--work-dir', __file__], 'is a file: give a folder'),
        ([None, '--cfg-options', 'oops'], "got 'oops'; write key=value"),
        ([None, '--cfg-options', 'model.backbone.type=ResNet_CIFA'], "did you mean 'ResNet_CIFAR'?"),
        ([None, '--cfg-options', 'default_scope=nope'], "default_scope='nope', which cannot be imported"),
        ([None, '--amp', '--cfg-options', 'optim_wrapper.type=Apex'], "the config sets optim_wrapper.type='Apex'"),
    ],
)  # fmt: skip
def test_bad_input_to_train(fail_tool, digits_config, arguments, message):
    arguments = [digits_config if argument is None else argument for argument in arguments]
    assert message in fail_tool('train.py', *arguments)


def test_resume_from_weights_only(fail_tool, digits_config, tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'weights.pth')
    assert 'holds weights only' in fail_tool('train.py', digits_config, '--resume', tmp_path / 'weights.pth')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py', 'a.pth'], "error: no config at 'nowhere.py'"),
        ([None, 'nowhere.pth'], "error: no checkpoint at 'nowhere.pth'"),
        ([None, __file__], 'it may be truncated or no checkpoint at all'),
        ([None, 'a.pth', '--out', 'a.txt'], "--out 'a.txt': "),
    ],
)
def test_bad_input_to_test(fail_tool, digits_config, arguments, message):
    arguments = [digits_config if argument is None else argument for argument in arguments]
    assert message in fail_tool('test.py', *arguments)
