"""The benchmark for GPUs, on the CPU with tiny networks: its counts are right, its table is whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
WAYS = ['plain', 'shrink', 'refine', 'settle', 'subnet']


@pytest.fixture(scope='module', autouse=True)
def benchmarks_on_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def gpu(*arguments):
    return subprocess.run([sys.executable, str(BENCHMARKS / 'gpu.py'), *arguments], capture_output=True, text=True)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The command of the README, with tiny networks."""
    path = tmp_path_factory.mktemp('gpu') / 'deep' / 'gpu.md'
    command = [
        sys.executable,
        str(BENCHMARKS / 'gpu.py'),
        '--tiny',
        '--device',
        'cpu',
        '--batch',
        '2',
        '--rounds',
        '1',
    ]
    done = subprocess.run([*command, '--out', str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, path


def test_the_table_has_every_network_and_way(run):
    printed, path = run
    text = path.read_text()
    assert text.strip() in printed
    rows = [line.split(' | ')[:2] for line in text.splitlines() if line.startswith('| ')][2:]
    assert [[name.lstrip('| '), way] for name, way in rows] == [
        [network, way] for network in ('resnet', 'deit', 'llama') for way in WAYS
    ]


def test_the_numbers_are_those_of_real_steps(run):
    records = json.loads(run[1].with_suffix('.json').read_text())
    for record in records:
        ways = record['ways']
        assert list(ways) == WAYS and ways['plain']['ratio'] == 1.0
        assert ways['shrink']['operations'] > ways['settle']['operations'] > ways['plain']['operations'] > 100
        assert ways['subnet']['operations'] <= ways['plain']['operations']
        assert record['units'] >= 4


def test_views_are_not_counted():
    from speed.launches import operations

    layer, x = nn.Linear(3, 2), torch.rand(4, 3)
    with torch.no_grad():
        assert operations(lambda: layer(x.view(2, 2, 3)[0]) + 1.0) == {'aten::addmm': 1, 'aten::add': 1}


@pytest.mark.parametrize(
    ('wrong', 'said'),
    [
        (['--batch', '0'], '--batch 0'),
        (['--networks', 'vgg'], 'vgg is none of resnet50'),
        (['--rounds', '0'], 'must be'),
    ],
)
def test_bad_input_is_refused(wrong, said):
    done = gpu(*wrong)
    assert done.returncode == 2 and said in done.stderr
