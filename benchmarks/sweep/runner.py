"""Runs the networks of a list, each in a process of its own, and keeps what comes out."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quality.records import append_record, key_of, read_records

from .gates import misses, parity_of
from .provenance import provenance
from .zoo import Entry

KEY = ('config', 'listed_shape', 'source')
"""What names a row: a second run skips a row whose key is there."""
TOOLS = Path(__file__).resolve().parents[1]


def sweep(entries: Sequence[Entry], out: str, time_limit: float, threads: int = 1, fresh: bool = False) -> bool:
    """Measure every entry that ``out`` does not hold yet, and say how each fares.

    Args:
        entries: what to measure, in this order.
        out: file of the records, JSON lines.
        time_limit: of one network, in seconds.
        threads: of torch.
        fresh: measure what ``out`` holds, too.

    Returns:
        Whether all entries pass, those of earlier runs included.
    """
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    missed = 0
    for number, entry in enumerate(entries, 1):
        run = dict(provenance(), threads=threads)
        done = {key_of(record, KEY): record for record in read_records(out, KEY)}
        key = key_of(dict(config=entry.config, listed_shape=entry.listed_shape, **run), KEY)
        begin = time.perf_counter()
        if key in done and not fresh:
            record, took = {**done[key], 'kind': entry.kind}, 'measured before'
        else:
            record = {**run_entry(entry, time_limit, threads), **run}
            append_record(out, record)
            took = f'{time.perf_counter() - begin:.0f} s'
        missed += bool(misses(record))
        print(f'{time.strftime("%H:%M:%S")} {number}/{len(entries)} {progress(record)} ({took})', flush=True)
    print(f'{len(entries) - missed} of {len(entries)} networks pass', flush=True)
    return not missed


def run_entry(entry: Entry, time_limit: float, threads: int = 1) -> dict[str, Any]:
    """Record of one network, from a process that is killed at the time limit, with all that it started."""
    with tempfile.TemporaryDirectory() as scratch:
        path, log = Path(scratch) / 'record.json', Path(scratch) / 'log'
        command = [sys.executable, '-m', 'sweep.worker', str(path), json.dumps(dataclasses.asdict(entry))]
        paths = [os.path.abspath(path) for path in os.environ.get('PYTHONPATH', '').split(os.pathsep) if path]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([*paths, str(TOOLS)]), OMP_NUM_THREADS=str(threads))
        with open(log, 'wb') as file:
            # In a folder of its own: python -m would import a file of the user's that has the name of a module.
            with _process([*command, str(threads)], cwd=scratch, env=env, stdout=file, stderr=file) as process:
                try:
                    status: int | None = process.wait(time_limit)
                except subprocess.TimeoutExpired:
                    status = None
        said = log.read_text(encoding='utf-8', errors='replace')
        record = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    if not record or 'stage' in record:
        last = (said.strip().splitlines() or ['it said nothing'])[-1]
        ended = f'over the time limit of {time_limit:g} s' if status is None else f'ended with status {status}: {last}'
        start = dict(config=entry.config, kind=entry.kind, listed_shape=entry.listed_shape, stage='start')
        record = {**start, 'error': ended, **record, 'log': said[-3000:]}
    return record


@contextmanager
def _process(command: Sequence[str], **kwargs: Any) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the block, nor do its children."""
    process = subprocess.Popen(command, start_new_session=True, **kwargs)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def progress(record: dict[str, Any]) -> str:
    """One line on a record."""
    found = misses(record)
    verdict = 'FAIL: ' + '; '.join(found) if found else 'ok'
    if 'error' in record:
        return f'{record["config"]}: {verdict}'
    return (
        f'{record["config"]}: {record["prunable_flops_fraction"]:.3f} prunable, parity '
        f'{parity_of(record):.0e}, traced in {record["trace_seconds"]:.1f} s, '
        f'{record["trace_mb"] / 1000:.2f} GB: {verdict}'
    )
