"""Run the tools as a user does, and quickly in this process where they only fail."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mmdms.openmmlab.safe_load import FORCE

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'digits' / 'resnet18_b64_digits.py'


@pytest.fixture(scope='session')
def digits_config():
    return CONFIG


@pytest.fixture(scope='session')
def tiny():
    """Arguments for a few iterations on a few images; more ``--cfg-options`` may follow them."""
    return [
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=16',
        'train_dataloader.dataset.indices=48',
        'val_dataloader.dataset.indices=61',
        'test_dataloader.dataset.indices=61',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='session')
def run_tool():
    """Run ``tools/<name>`` in a process of its own, from ``cwd``; return what it printed."""

    def run(name, *args, cwd, status=0):
        command = [sys.executable] if name.endswith('.py') else ['bash']
        env = dict(os.environ, PYTHON=sys.executable)
        env.pop('PYTHONPATH', None)
        done = subprocess.run(
            [*command, str(ROOT / 'tools' / name), *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture
def fail_tool(monkeypatch, capsys, tmp_path):
    """Run ``tools/<name>`` in this process where it must refuse: return the one line that it says."""

    def run(name, *args):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        monkeypatch.setenv(FORCE, '0')  # the tools set it, for their process; undone after the test
        monkeypatch.delenv(FORCE)
        before = set(tmp_path.rglob('*'))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        assert stop.value.code == 2
        assert set(tmp_path.rglob('*')) == before, 'something was written'
        said = capsys.readouterr().err.strip().splitlines()
        return said[-1]

    return run
