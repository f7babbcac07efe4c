"""The whole path on real images: search, export, retrain, test, and compare.

Runs only the public commands, prints each before it runs, and ends with a table
of the supernet, the exported subnet and a uniformly narrowed network of equal
FLOPs. Takes a few minutes on two CPU cores.
"""

import argparse
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
from mmengine.registry import MODELS, init_default_scope
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
SEARCH = 'configs/digits/dms-10_resnet18_b64_digits.py'
PLAIN = 'configs/digits/resnet18_b64_digits.py'
UNIFORM = 'configs/digits/resnet18-uniform_b64_digits.py'


def run(*command: str) -> None:
    """Print a command and run it from the root of the repository; stop if it fails."""
    print(f'\n$ {shlex.join(["python", *command])}', flush=True)
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    print(f'# {time.perf_counter() - begin:.0f} s', flush=True)


def latency(config: str, batch: int = 64, repeats: int = 30) -> float:
    """Median milliseconds of a forward pass of one batch in evaluation mode."""
    loaded = Config.fromfile(config)
    init_default_scope(loaded.default_scope)
    model = MODELS.build({'data_preprocessor': loaded.data_preprocessor, **loaded.model}).eval()
    inputs = torch.rand(batch, 3, 32, 32)
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats):
            begin = time.perf_counter()
            model(inputs, mode='tensor')
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1e3


def train_and_test(config: str, work_dir: Path) -> float:
    """Train a config, test its last checkpoint; return the accuracy in percent."""
    run('tools/train.py', config, '--work-dir', str(work_dir))
    return test(config, work_dir)


def test(config: str, work_dir: Path) -> float:
    """Test the last checkpoint of a folder; return the accuracy in percent."""
    metrics = work_dir / 'metrics.json'
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    run(
        'tools/test.py',
        config,
        checkpoint,
        '--work-dir',
        str(work_dir),
        '--out',
        str(metrics),
        '--out-item',
        'metrics',
    )
    return json.loads(metrics.read_text())['accuracy/top1']


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='where everything goes (default: %(default)s)')
    work = Path(parser.parse_args().work_dir).resolve()
    if work.exists():
        shutil.rmtree(work)
    pruned = work / 'pruned'

    run('tools/search_space.py', SEARCH)
    run('tools/train.py', SEARCH, '--work-dir', str(work / 'search'))
    checkpoint = (work / 'search' / 'last_checkpoint').read_text().strip()
    run('tools/prune.py', SEARCH, checkpoint, '--out-dir', str(pruned))
    subnet = train_and_test(str(pruned / 'config.py'), work / 'retrain')
    print('\n# For comparison: the supernet, and the same network narrowed uniformly', flush=True)
    supernet = train_and_test(PLAIN, work / 'supernet')
    uniform = train_and_test(UNIFORM, work / 'uniform')

    report = json.loads((pruned / 'report.json').read_text())
    survey = work / 'uniform.json'
    run('tools/search_space.py', UNIFORM, '--json', str(survey))
    narrowed = json.loads(survey.read_text())
    rows = [
        ['supernet', report['flops']['supernet'], report['params']['supernet'], supernet, latency(str(ROOT / PLAIN))],
        [
            'exported subnet',
            report['flops']['subnet'],
            report['params']['subnet'],
            subnet,
            latency(str(pruned / 'config.py')),
        ],
        ['uniform width', narrowed['flops'], narrowed['params'], uniform, latency(str(ROOT / UNIFORM))],
    ]
    table = [[n, f'{f / 1e6:.2f} M', f'{p / 1e3:.1f} k', f'{a:.2f}', f'{t:.1f} ms'] for n, f, p, a, t in rows]
    print()
    print(tabulate(table, headers=['network', 'FLOPs', 'params', 'accuracy', 'latency (batch 64)'], stralign='right'))


if __name__ == '__main__':
    main()
