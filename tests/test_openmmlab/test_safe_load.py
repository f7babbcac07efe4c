"""Files that run code when they are loaded the ordinary way are refused, and run none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule

from mmdms.errors import CheckpointError
from mmdms.openmmlab.checkpoints import read_checkpoint
from mmdms.openmmlab.safe_load import FORCE, load_plain

ROOT = Path(__file__).parents[2]


class Runs:
    """Pickled as a call: whoever loads it the ordinary way makes it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def malicious(folder, **kwargs):
    """A file of good weights that also makes a file ``executed`` when it is loaded the ordinary way."""
    mark, path = folder / 'executed', folder / 'malicious.pth'
    content = {'state_dict': {'weight': torch.zeros(1)}, 'meta': {'epoch': 1, 'note': Runs(os.mkdir, str(mark))}}
    torch.save(content, path, **kwargs)
    return path, mark


@pytest.mark.parametrize('zipped', [True, False])
def test_a_malicious_file_is_refused_and_does_not_run(tmp_path, zipped):
    path, mark = malicious(tmp_path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"holds 'posix.mkdir', which is no plain data.*refused"):
        read_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # what it would have done
    assert mark.exists()


@pytest.mark.parametrize(
    'call',
    [
        (eval, '1'),
        (getattr, HistoryBuffer, '__init__'),
        (getattr, HistoryBuffer, '__class__'),
        (getattr, BaseModule, 'min'),
        (BaseModule,),
    ],
)
def test_what_histories_need_opens_no_other_door(tmp_path, call):
    torch.save({'state_dict': {'weight': torch.zeros(1)}, 'x': Runs(*call)}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='which is no plain data'):
        read_checkpoint(tmp_path / 'a.pth')


def test_what_mmengine_writes_is_read(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    content = dict(history=history, score=np.float64(0.5), count=np.int64(3), colours=np.zeros((2, 3), np.uint8))
    torch.save(content, tmp_path / 'a.pth')
    found = load_plain(tmp_path / 'a.pth')
    assert found['history'].mean() == 2.0 and found['history'].statistics('max') == 3.0
    assert found['score'] == 0.5 and found['count'] == 3 and found['colours'].shape == (2, 3)


def test_mmengines_own_loading_is_held_to_it_too(tmp_path):
    """It falls back to the unsafe way by itself; the tools forbid that in their process."""
    path, mark = malicious(tmp_path)
    program = """
import sys
from mmengine.runner.checkpoint import CheckpointLoader
from mmdms.openmmlab.cli import run_cli
run_cli(lambda: CheckpointLoader.load_checkpoint(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, '-c', program, str(path)], capture_output=True, text=True,
                          env={key: value for key, value in os.environ.items() if key != FORCE})  # fmt: skip
    assert done.returncode != 0 and 'UnpicklingError' in done.stderr
    assert not mark.exists()


def test_nothing_of_ours_loads_the_unsafe_way():
    unsafe = re.compile(
        r'import (c?pickle|dill|joblib|marshal|shelve)|weights_only\s*=\s*False|(?<![\w.])(eval|exec)\('
    )
    files = [path for folder in ('mmdms', 'tools') for path in (ROOT / folder).rglob('*.py')]
    assert len(files) > 80
    found = [f'{path}: {line}' for path in files for line in path.read_text().splitlines() if unsafe.search(line)]
    assert not found
