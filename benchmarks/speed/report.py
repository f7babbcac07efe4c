"""Tables of the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

WAYS = ('shrink', 'refine', 'settle', 'dpf', 'dpf-filters', 'reference', 'torch-pruning')


def make_report(records: Sequence[dict[str, Any]]) -> str:
    """Markdown tables of what there is; the last record of a kind counts."""
    makers = (_steps, _subnet, _hand, _memory, _setup, _operator, _endurance)
    return '\n\n'.join(filter(None, (make(records) for make in makers)))


def _table(title: str, rows: list[list[Any]], headers: Sequence[str]) -> str:
    return f'### {title}\n\n' + tabulate(rows, headers, tablefmt='pipe', disable_numparse=True) if rows else ''


def _of(records: Sequence[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [record for record in records if record['what'] == what]


def _ratio(record: dict[str, Any], part: str, way: str) -> str:
    found = record[part].get(way)
    return (
        f'{found.get("averaged", found["ratio"]):.3f}'
        if found
        else 'fails'
        if way in record.get('failed', {})
        else '–'
    )


def _steps(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for r in _of(records, 'steps'):
        trained = [_ratio(r, 'train', way) for way in WAYS]
        evaluated = [_ratio(r, 'evaluate', way) for way in ('shrink', 'settle')]
        pieces = ', '.join(f'{name} {value:.1f}' for name, value in r['parts'].items())
        plain = f'{r["train"]["plain"]["seconds"] * 1e3:.0f}'
        rows.append([r['network'], f'{r["size"]}, batch {r["batch"]}', plain, *trained, *evaluated, pieces])
    heads = ['network', 'input', 'plain step, ms', *WAYS, 'evaluation, soft', 'evaluation, settled', 'parts, ms']
    text = _table('Time of a step, as a multiple of a plain one', rows, heads)
    said = {f'- {r["network"]}, {way}: {why}' for r in _of(records, 'steps') for way, why in r['failed'].items()}
    return text + ('\n\nWhat fails:\n\n' + '\n'.join(sorted(said)) if said else '')


def _subnet(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for r in _of(records, 'subnet'):
        times = [f'{r["evaluate"][way]["seconds"] * 1e3:.0f}' for way in ('plain', 'subnet')]
        faster = f'{1 / r["evaluate"]["subnet"]["ratio"]:.2f}'
        rows.append([r['network'], f'{r["size"]}, batch {r["batch"]}', f'{r["flops"]:.3f}', *times, faster])
    heads = ['network', 'input', 'FLOPs of the subnet', 'supernet, ms', 'subnet, ms', 'times as fast']
    return _table('Evaluation of a subnet of half the FLOPs, widths in multiples of 8', rows, heads)


def _hand(records: Sequence[dict[str, Any]]) -> str:
    rows = [
        [r['network'], f'{r["size"]}, batch {r["batch"]}', *(f'{r["evaluate"][way]["seconds"] * 1e3:.0f}'
         for way in ('plain', 'exported')), f'{r["evaluate"]["exported"]["ratio"]:.3f}']
        for r in _of(records, 'hand')
    ]  # fmt: skip
    heads = ['network', 'input', 'by hand, ms', 'exported, ms', 'ratio']
    return _table('Evaluation of an exported network beside one written by hand, half the width', rows, heads)


def _memory(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for r in _of(records, 'memory'):
        plain = r['peak_mb']['plain']
        shares = [f'{r["peak_mb"][way] / plain:.3f}' if r['peak_mb'].get(way) else '–' for way in WAYS]
        rows.append([r['network'], f'{r["size"]}, batch {r["batch"]}', f'{plain:.0f}', *shares])
    return _table('Peak memory of the process, as a multiple', rows, ['network', 'input', 'plain, MB', *WAYS])


def _setup(records: Sequence[dict[str, Any]]) -> str:
    rows = [
        [f'`{r["config"].rpartition("/")[2]}`', r['size'], f'{r["params"] / 1e6:.1f} M', r['modules'], r['units'],
         r['elements'], f'{r["trace_seconds"]:.1f}', f'{r["export_seconds"]:.1f}', f'{r["build_seconds"]:.1f}']
        for r in _of(records, 'setup')
    ]  # fmt: skip
    heads = ['config', 'input', 'params', 'modules', 'units', 'elements', 'trace and verify, s',
             'slice and compare, s', 'build the subnet, s']  # fmt: skip
    return _table('Set-up, seconds of the processor', rows, heads)


def _operator(records: Sequence[dict[str, Any]]) -> str:
    rows = [
        [r['units'], r['elements'], *(f'{r["milliseconds"][way]:.2f}' if way in r['milliseconds'] else '–'
                                      for way in ('ours', 'all_pairs'))]
        for r in _of(records, 'operator')
    ]  # fmt: skip
    heads = ['units', 'elements each', 'sorted, ms', 'all pairs, ms']
    return _table('The operator alone: ranks, mask and gradient', rows, heads)


def _endurance(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for r in _of(records, 'endurance'):
        each = r['iterations'] // len(r['rss_mb'])
        rows += [[f'{each * (i + 1)}', f'{mb:.0f}', f'{ms:.1f}']
                 for i, (mb, ms) in enumerate(zip(r['rss_mb'], r['milliseconds'], strict=True))]  # fmt: skip
    return _table('A search of many iterations', rows, ['iteration', 'resident memory, MB', 'step, ms'])
