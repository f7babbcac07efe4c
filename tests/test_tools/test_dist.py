"""The launch scripts: two processes on the CPU (or on two GPUs), and what Slurm would be asked."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest
import torch
from helpers.exact import exact_config


@pytest.fixture
def port(monkeypatch):
    """A free port, so that test runs on one machine do not meet."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        monkeypatch.setenv('PORT', str(sock.getsockname()[1]))


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason='NCCL wants a GPU for each process')
def test_train_and_test_in_two_processes(run_tool, port, digits_config, tiny, tmp_path):
    arguments = ['--work-dir', tmp_path, *tiny]
    log = run_tool('dist_train.sh', digits_config, 2, *arguments, cwd=tmp_path)
    # 48 images in batches of 16 are 3 iterations for one process, 2 for each of two.
    assert '[1][2/2]' in log and '[1][3/3]' not in log
    if not torch.cuda.is_available():
        assert 'No GPU found: running 2 processes on the CPU, with the gloo backend.' in log
    checkpoint = tmp_path / 'epoch_1.pth'

    metrics = []
    for name, processes in (('dist_test.sh', [2]), ('test.py', [])):
        out = tmp_path / f'{name}.json'
        arguments = ['--work-dir', tmp_path, '--out', out, '--out-item', 'metrics', *tiny]
        run_tool(name, digits_config, checkpoint, *processes, *arguments, cwd=tmp_path)
        metrics.append(json.loads(out.read_text()))
    # 61 images do not divide by two: those repeated to fill up must not count.
    assert metrics[0] == pytest.approx(metrics[1])


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Put a command of that name, with that script, first on the path."""
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')

    def put(name, script):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return put


def test_slurm(run_tool, command, monkeypatch, tmp_path):
    command('srun', 'printf "%s\\n" "$@"')
    monkeypatch.setenv('GPUS', '4')
    said = run_tool(
        'slurm_train.sh', 'part', 'job', 'c.py', 'out', '--cfg-options', 'a=b c', cwd=tmp_path
    ).splitlines()
    assert {'--partition=part', '--job-name=job', '--ntasks=4', '--gres=gpu:4'} <= set(said)
    assert said[-7:] == ['c.py', '--work-dir', 'out', '--launcher', 'slurm', '--cfg-options', 'a=b c']


@pytest.mark.skipif(torch.cuda.is_available(), reason='where there are GPUs, mmengine asks Slurm itself')
def test_slurm_without_gpus(run_tool, command, port, digits_config, tiny, monkeypatch, tmp_path):
    """Two processes with the variables that Slurm sets; a real Slurm was seen to do the same (docs/reliability.md)."""
    command('scontrol', '[ "$*" = "show hostnames node[1-2]" ] && printf "localhost\\nnode2\\n"')
    command(
        'srun',
        'while [ "${1#--}" != "$1" ]; do shift; done\n'
        'SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &\n'
        'SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $!',
    )
    variables = dict(GPUS='2', SLURM_NTASKS='2', SLURM_JOB_NODELIST='node[1-2]', MASTER_PORT=os.environ['PORT'])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    log = run_tool('slurm_train.sh', 'part', 'job', digits_config, tmp_path / 'out', *tiny, cwd=tmp_path)
    assert 'No GPU found: running 2 processes on the CPU, with the gloo backend.' in log
    assert '[1][2/2]' in log and '[1][3/3]' not in log


@pytest.mark.skipif(torch.cuda.is_available(), reason='where there are GPUs, mmengine asks Slurm itself')
def test_slurm_outside_a_job(fail_tool, digits_config):
    said = fail_tool('train.py', digits_config, '--launcher', 'slurm')
    assert 'SLURM_PROCID is not set here: use tools/slurm_train.sh' in said


@pytest.mark.skipif(torch.cuda.is_available(), reason='where there are GPUs, mmengine asks Slurm itself')
def test_slurm_does_not_tell_its_nodes(fail_tool, command, digits_config, monkeypatch):
    command('scontrol', 'exit 1')
    for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'):
        monkeypatch.setenv(name, '0')
    monkeypatch.setenv('SLURM_JOB_NODELIST', 'node[1-2]')
    said = fail_tool('train.py', digits_config, '--launcher', 'slurm')
    assert "the first of the nodes 'node[1-2]'" in said and 'set MASTER_ADDR to its name' in said


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_too_few_arguments(run_tool, name, tmp_path):
    assert run_tool(name, 'c.py', cwd=tmp_path, status=2).startswith('usage: bash')


@pytest.fixture
def search(pytestconfig, port, tmp_path):
    """50 iterations of a search in some processes: the checkpoint that they end with."""

    def run(processes, batch_size, mutator=None):
        folder = tmp_path / str(processes)
        folder.mkdir()
        config = exact_config(pytestconfig.rootpath, batch_size, epochs=5, images=80, mutator=mutator, lr=0.002)
        config.custom_imports = dict(imports=['mmdms', 'helpers.exact'])
        config.dump(folder / 'search.py')
        script = pytestconfig.rootpath / 'tools/dist_train.sh'
        done = subprocess.run(
            ['bash', script, folder / 'search.py', str(processes), '--work-dir', folder],
            cwd=folder, env=dict(os.environ, PYTHON=sys.executable, PYTHONPATH=str(pytestconfig.rootpath / 'tests')),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(folder / 'epoch_5.pth', weights_only=False)

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason='exact on the CPU')
def test_two_processes_search_as_one_with_twice_the_batch(search):
    two, one = search(2, 4), search(1, 8)
    assert bool(one['state_dict']['mutator.settled'])
    assert_alike(two, one, 'mutator.final_mask')


@pytest.mark.skipif(torch.cuda.is_available(), reason='exact on the CPU')
@pytest.mark.parametrize(('mutator', 'mask'), [
    (dict(type='mmdms.DPFMutator', sparsity=0.8, check_ranks_every=10), 'mutator.kept'),
    (dict(type='mmdms.StructuredDPFMutator', budget=dict(metric='flops', target=0.5), check_ranks_every=10),
     'mutator.final_mask'),
])  # fmt: skip
def test_two_processes_prune_as_one_with_twice_the_batch(search, mutator, mask):
    two, one = search(2, 4, mutator), search(1, 8, mutator)
    assert int(one['state_dict']['mutator.steps']) == 50
    assert_alike(two, one, mask)


def assert_alike(two, one, mask):
    assert [two['meta']['iter'], one['meta']['iter']] == [50, 50]
    two, one = two['state_dict'], one['state_dict']
    assert torch.equal(two[mask], one[mask]) and not bool(one[mask].all())
    assert two.keys() == one.keys()
    for name, expected in one.items():
        torch.testing.assert_close(
            two[name], expected, rtol=1e-5, atol=1e-7, msg=lambda said, name=name: f'{name}: {said}'
        )
