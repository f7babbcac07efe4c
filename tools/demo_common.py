"""What the demos share: run public commands, read what they wrote, and print the table at the end."""

import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tabulate import tabulate

from mmdms.openmmlab.architecture import build_architecture

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> None:
    """Print a command and run it from the root of the repository; stop if it fails."""
    print(f'\n$ {shlex.join(["python", *command])}', flush=True)
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    print(f'# {time.perf_counter() - begin:.0f} s', flush=True)


def fresh_folder(path: str) -> Path:
    """An absolute path at which nothing is: what an earlier demo left there goes."""
    folder = Path(path).resolve()
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def search_and_prune(config: str, work: Path) -> Path:
    """Show the search space of a config, search it, export; return the folder of the export."""
    run('tools/search_space.py', config)
    run('tools/train.py', config, '--work-dir', str(work / 'search'))
    checkpoint = (work / 'search' / 'last_checkpoint').read_text().strip()
    run('tools/prune.py', config, checkpoint, '--out-dir', str(work / 'pruned'))
    return work / 'pruned'


def train_and_test(config: str, work_dir: Path, metric: str) -> float:
    """Train a config, test its last checkpoint; return a metric of the test."""
    run('tools/train.py', config, '--work-dir', str(work_dir))
    results = work_dir / 'metrics.json'
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    out = ['--out', str(results), '--out-item', 'metrics']
    run('tools/test.py', config, checkpoint, '--work-dir', str(work_dir), *out)
    return json.loads(results.read_text())[metric]


def latency(config: str, size: int, batch: int, repeats: int = 30) -> float:
    """Median milliseconds of a forward pass of one batch of square images in evaluation mode."""
    loaded = Config.fromfile(config)
    init_default_scope(loaded.default_scope)
    model = build_architecture(loaded.model, loaded.get('data_preprocessor')).eval()
    inputs = torch.rand(batch, 3, size, size)
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats):
            begin = time.perf_counter()
            model(inputs, mode='tensor')
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1e3


def print_table(rows: list[tuple], score: str, batch: int) -> None:
    """Print rows of name, FLOPs, parameters, score as it is shown, and milliseconds."""
    table = [[n, f'{f / 1e6:.2f} M', f'{p / 1e3:.1f} k', s, f'{t:.1f} ms'] for n, f, p, s, t in rows]
    headers = ['network', 'FLOPs', 'params', score, f'latency (batch {batch})']
    print()
    print(tabulate(table, headers=headers, stralign='right', disable_numparse=True))
