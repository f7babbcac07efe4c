"""The page of a sweep: a table, and what is frozen in each network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from mmdms.tracing.held import INPUT

from .counted import TOLERANCE, difference, too_far
from .gates import FRACTION, PARITY, PEAK_MB, RELOAD, TRACE_SECONDS, cut, misses, parity_of
from .provenance import PACKAGES
from .zoo import Entry

OUTPUT = 'reaches an output of the network'
HEADS = ('model', 'kind', 'input', 'FLOPs', 'units', 'elements', 'head units', 'depth units',
         'prunable FLOPs', 'parity', 'trace', 'memory', 'gates')  # fmt: skip

PAGE = """\
# Coverage

What mmdms does with every family of image classifiers in mmpretrain's zoo, of detectors in mmyolo's, and with the main
families of mmdet's. Written by a command; do not edit.

```shell
python benchmarks/sweep_zoo.py --out work_dirs/sweep.jsonl                             # or: make sweep
python benchmarks/sweep_zoo.py --out work_dirs/sweep.jsonl --report docs/coverage.md
```

The networks are those of [`benchmarks/sweep/mmpretrain.txt`](../benchmarks/sweep/mmpretrain.txt) and
[`benchmarks/sweep/detectors.txt`](../benchmarks/sweep/detectors.txt): the smallest member of every family, built
without pretrained weights.
[`benchmarks/sweep/left_out.txt`](../benchmarks/sweep/left_out.txt) says which classifiers are left out and why.
The records of this page are in [`docs/results/coverage.jsonl`](results/coverage.jsonl).

Each network is traced and its space verified. Then, for each of {seeds} seeds, half of every unit is removed at
random, heads and blocks included; the network is sliced for real, compared with its masks in float64, and trained for
one step with the config's own preprocessing, augmentation and loss. The export of the first seed is written as
`tools/prune.py` writes it and loaded by a fresh process. Half of one block is none, so the widths of the first seed
are compared once more with all blocks in place. Last, the masked network takes two steps of a search, under soft masks
and with all blocks gone: in bfloat16, or in float32 where it does not run in bfloat16 without masks.

Detectors are compared, and trained for a step, on images of 128 pixels where they run on such; FLOPs count at the
size in the table. What is compared are the raw outputs of their heads: those of the dense head, or of the region
proposal network and of the RoI head on given proposals (20 to compare, as many as a test keeps to count FLOPs).

{verdict}

- **FLOPs**: multiply-accumulates of one input of the size in the table, as mmengine counts them.
- **prunable FLOPs**: the share that goes when every unit is at its minimum. Gate: at least {convolutional} in
  convolutional networks, {transformer} in transformers, {hybrid} in hybrids (convolutions with attention, and what is
  neither: MLPs over tokens, graphs), {one_stage} in one-stage detectors, {two_stage} in two-stage ones and {detr} in
  those of the DETR family.
- **parity**: largest difference of the sliced from the masked network, as a share of the largest output; the worst of
  the seeds. Gate: at most {parity:g}.
- **trace**: processor seconds to trace and verify. Gate of classifiers: below {seconds:g}.
- **memory**: peak of the process, interpreter and libraries included, when the space was traced and verified, and in
  brackets at the end (export, training step). Gate of classifiers: the first below {memory:g} GB.
- Also held to gates: the loss is finite; the reloaded export computes what the sliced network computes, to {reload:g}
  of the largest output; every dimension above 1 of every parameter is searched, follows another that is, is frozen for
  a reason that is listed, or is a spatial extent of a convolution.

{machine}

{table}

{counts}
{flops}{remarks}
## What is frozen

What stays as it is, with the reason. "{output}" and "{input}" are left out: they hold for
the last and the first layer of every network. A
layer whose number is written as `*` stands for as many as are counted; sizes in a reason are those of the first.

{frozen}
"""


def make_report(entries: Sequence[Entry], records: Sequence[dict[str, Any]]) -> str:
    """Markdown of the latest record of every entry.

    Args:
        entries: what to report on, in this order; those without a record are named.
        records: from the file of results, oldest first.
    """
    latest = {(r['config'], r['listed_shape']): r for r in records}
    keys = [(e, (e.config, e.listed_shape)) for e in entries]
    found = [{**latest[key], 'kind': entry.kind} for entry, key in keys if key in latest]
    absent = [entry.config for entry, key in keys if key not in latest]
    rows = [_row(record) for record in found]
    counts = Counter(record['kind'] for record in found if not misses(record))
    totals = Counter(record['kind'] for record in found)
    lines = [f'{kind}: {counts[kind]} of {total} pass.' for kind, total in totals.items()]
    if absent:
        lines.append(f'Not measured: {", ".join(absent)}.')
    return PAGE.format(
        seeds=max((len(r.get('seeds', [])) for r in found), default=0),
        verdict=_verdict(found),
        machine=_machine(found),
        table=tabulate(rows, headers=HEADS, tablefmt='pipe', disable_numparse=True, colalign=_alignment(rows)),
        counts='\n'.join(lines),
        frozen='\n\n'.join(filter(None, map(_frozen, found))) or 'Nothing else.',
        flops=_flops_beside_mmengine(found),
        remarks=_remarks(found),
        parity=PARITY,
        seconds=TRACE_SECONDS,
        memory=PEAK_MB / 1000,
        reload=RELOAD,
        output=OUTPUT,
        input=INPUT,
        **{kind.replace('-', '_'): f'{gate:.2f}' for kind, gate in FRACTION.items()},
    )


def _verdict(records: Sequence[dict[str, Any]]) -> str:
    missing = [(_name(record), misses(record)) for record in records if misses(record)]
    text = f'**{len(records) - len(missing)} of {len(records)} networks pass every gate.**'
    if missing:
        text += ' The others:\n\n' + '\n'.join(f'- {name}: {"; ".join(found)}' for name, found in missing)
    return text


def _flops_beside_mmengine(records: Sequence[dict[str, Any]]) -> str:
    """Networks whose FLOPs are not those of mmengine, with the reason; nothing of records that do not have both."""
    both = [record for record in records if 'mmengine_flops' in record]
    if not both:
        return ''
    lines = []
    for record in filter(too_far, both):
        rows = [record, *(row for row in record['seeds'] if 'mmengine_flops' in row)]
        shares = ' and '.join(f'{difference(row["flops"], row["mmengine_flops"]):+.2%}' for row in rows)
        lines.append(f'- {_name(record)}: {shares}: {"; ".join(record["flops_reasons"]) or "no known reason"}')
    text = f'\nFLOPs of {len(both)} networks, and of a random structure of each, were counted by mmengine too. '
    if not lines:
        return text + f'They differ by at most {TOLERANCE:.1%}.\n'
    return text + f'These differ by more than {TOLERANCE:.1%}, whole and cut:\n\n' + '\n'.join(lines) + '\n'


def _remarks(records: Sequence[dict[str, Any]]) -> str:
    """What the packages themselves do not do with a network, whatever its size."""
    lines = []
    for record in records:
        seeds = record.get('seeds', [])
        for said in {row['not_trained'] for row in seeds if row.get('not_trained')}:
            lines.append(f'- {_name(record)} took its step in evaluation mode, on the cross entropy: "{said}"')
        if record.get('no_bfloat16'):
            lines.append(f'- {_name(record)} does not train in bfloat16 on a CPU: "{record["no_bfloat16"]}"')
        for missing in {row['reload']['missing'] for row in seeds if row.get('reload', {}).get('missing')}:
            lines.append(
                f'- {_name(record)} drops {missing} buffers from every state that it loads, also from its own, and '
                'computes them anew; so it never loads strictly, and loaded here without those.'
            )
    return '\nWhat the packages do not do with a network of any size:\n\n' + '\n'.join(lines) + '\n' if lines else ''


def _machine(records: Sequence[dict[str, Any]]) -> str:
    """With what the rows were measured; several of a kind where they differ."""

    def all_of(key: str) -> str:
        return ', '.join(sorted({str(record[key]) for record in records if record.get(key)}))

    versions = [f'{name} {all_of(f"{name}_version")}' for name in PACKAGES]
    versions[0] += f' (commit {all_of("commit")})'
    text = f'Measured {all_of("date")} with {", ".join(versions)}, on {all_of("machine")}, {all_of("threads")} thread.'
    sources = len({record.get('source') for record in records})
    if sources > 1:
        text += f' **The rows are of {sources} states of mmdms**: run the sweep again to measure the others.'
    older = sum('search_losses' not in record and 'error' not in record for record in records)
    if older:
        text += f' {older} rows are from before steps of a search were part of it.'
    return text


def _row(record: dict[str, Any]) -> list[str]:
    found = [text.split()[0] for text in misses(record)]  # the verdict above the table has the figures
    gates = 'misses ' + ', '.join(found) if found else 'pass'
    if 'error' in record:
        gates = f'ends at: {record["stage"]}'
    row = [_name(record), record['kind'], 'x'.join(map(str, record.get('input_shape', []))) or '–']
    if 'units' not in record:
        return [*row, *['–'] * (len(HEADS) - 4), gates]
    kinds = Counter(kind for _, kind, _ in record['units'])
    peak = f'{record["peak_mb"] / 1000:.2f}' if 'peak_mb' in record else '–'
    return [
        *row,
        _flops(record['flops']),
        str(len(record['units'])),
        str(sum(total for _, _, total in record['units'])),
        str(kinds['heads']),
        str(kinds['depth']),
        cut(record['prunable_flops_fraction']),
        f'{parity_of(record):.0e}' if record['seeds'] else '–',
        f'{record["trace_seconds"]:.1f} s',
        f'{record["trace_mb"] / 1000:.2f} ({peak}) GB',
        gates,
    ]


def _name(record: dict[str, Any]) -> str:
    return f'`{record["config"].removeprefix("mmpretrain::")}`'


def _flops(flops: int) -> str:
    return f'{flops / 1e9:.2f} G' if flops >= 1e9 else f'{flops / 1e6:.1f} M'


def _alignment(rows: list[list[str]]) -> list[str] | None:
    """Numbers to the right; tabulate takes no alignment for a table without rows."""
    return ['left', 'left', *['right'] * (len(HEADS) - 3), 'left'] if rows else None


def _frozen(record: dict[str, Any]) -> str:
    """Section of a network: its reasons, each with its modules; empty if it has none."""
    groups: dict[str, tuple[str, list[tuple[str, int]]]] = {}
    for module, reason, elements in record.get('frozen', []):
        if reason not in (OUTPUT, INPUT):
            # Reasons that differ in sizes alone are one, told as of its first module.
            groups.setdefault(re.sub(r'\d+', '*', reason), (reason, []))[1].append((module, elements))
    lines = []
    for reason, places in groups.values():
        numbered = Counter(re.sub(r'\d+', '*', module) or '(network)' for module, _ in places)
        single = {re.sub(r'\d+', '*', module): module for module, _ in places}
        names = [f'`{single.get(n) or n}`' if count == 1 else f'`{n}` ({count})' for n, count in numbered.items()]
        elements = sum(count for _, count in places)
        lines.append(f'- {reason}: {", ".join(names)}' + (f'; {elements} elements' if elements else ''))
    return f'### {_name(record)}\n\n' + '\n'.join(lines) if lines else ''
