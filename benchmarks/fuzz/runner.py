"""Run many trials, each in a process that may hang or crash."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = """
import gc, json, sys
import torch
from fuzz.trial import Trial
torch.set_num_threads(1)
gc.freeze()  # every trace collects garbage, which takes long among so much that was imported
for line in sys.stdin:
    print('RECORD ' + json.dumps(Trial(int(line)).run()), flush=True)
"""


class Worker:
    """A process that takes one network after the other; a new one is started where it hangs or dies.

    Args:
        limit: seconds that one network may take.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._process: subprocess.Popen[str] | None = None

    def run(self, seed: int) -> dict[str, Any]:
        """The record of one network; a hang and a dead process are crashes."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f'{seed}\n')
        process.stdin.flush()
        while True:
            ready, _, _ = select.select([process.stdout], [], [], self.limit)
            line = process.stdout.readline() if ready else ''
            if line.startswith('RECORD '):
                return json.loads(line.removeprefix('RECORD '))
            if not line:
                reason = f'the process ended with {process.wait()}' if ready else f'took more than {self.limit:g} s'
                self.close()
                return dict(seed=seed, outcome='crash', stage='process', reason=reason, layers=[], seconds=self.limit)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            folder = str(Path(__file__).parents[1])
            paths = [folder, *filter(None, [os.environ.get('PYTHONPATH')])]
            self._process = subprocess.Popen(
                [sys.executable, '-c', WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
                env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
            )
        return self._process


def read(path: str | Path) -> list[dict[str, Any]]:
    """Records of a file, by seed; the last one of a seed counts, and a line that was cut off is left out."""
    found: dict[int, dict[str, Any]] = {}
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            try:  # lines that are empty or were cut off hold nothing
                record = json.loads(line)
            except ValueError:
                continue
            found[record['seed']] = record
    return [found[seed] for seed in sorted(found)]


def run(seeds: list[int], out: str | Path, limit: float, again: bool = False) -> None:
    """Run the seeds that ``out`` does not hold yet, and append a line per network.

    Args:
        seeds: of the networks.
        out: JSON lines; made if absent.
        limit: seconds that one network may take.
        again: run those once more that were not ok.
    """
    done = {r['seed'] for r in read(out) if r['outcome'] == 'ok' or not again}
    todo = [seed for seed in seeds if seed not in done]
    worker = Worker(limit)
    counts = dict.fromkeys(('ok', 'refused', 'crash', 'wrong slice'), 0)
    try:
        with open(out, 'a') as file:
            if todo and done:
                file.write('\n')  # ends a line that was cut off
            for place, seed in enumerate(todo, 1):
                record = worker.run(seed)
                file.write(json.dumps(record) + '\n')
                file.flush()
                counts[record['outcome']] += 1
                told = ', '.join(f'{count} {name}' for name, count in counts.items())
                print(f'\r{place} of {len(todo)} networks, seed {seed}: {told}', end='', file=sys.stderr, flush=True)
    finally:
        worker.close()
        print(file=sys.stderr)
