"""What a fuzz run found."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any


def summary(records: list[dict[str, Any]]) -> str:
    """Outcomes, reasons with the seeds that show them, and which layers were met and stayed frozen."""
    outcomes = Counter(record['outcome'] for record in records)
    total = max(len(records), 1)
    lines = [f'{len(records)} networks']
    lines += [f'  {name}: {count} ({100 * count / total:.1f}%)' for name, count in outcomes.most_common()]
    for outcome in ('crash', 'wrong slice', 'refused'):
        found: dict[str, list[int]] = defaultdict(list)
        for record in records:
            if record['outcome'] == outcome:
                found[f'{record["stage"]}: {general(record["reason"])}'].append(record['seed'])
        if found:
            lines += ['', f'{outcome}, by reason:']
            for reason, seeds in sorted(found.items(), key=lambda item: -len(item[1])):
                lines.append(f'  {len(seeds)} x {reason} (seeds {", ".join(map(str, seeds[:5]))})')
    frozen: Counter[str] = Counter()
    for record in records:
        frozen.update(general(reason) for reason in record.get('frozen', {}))
    if frozen:
        lines += ['', 'networks in which something is frozen, by reason:']
        lines += [f'  {count} x {reason}' for reason, count in frozen.most_common(40)]
    met = Counter(name.partition(':')[2] or name for record in records for name in set(record.get('layers', [])))
    if met:
        lines += ['', 'networks per layer: ' + ', '.join(f'{name} {count}' for name, count in sorted(met.items()))]
    return '\n'.join(lines)


def general(reason: str) -> str:
    """A reason without its numbers and names, so that equal faults are counted together."""
    reason = re.sub(r'body\.[\w.]+', 'LAYER', reason)
    return re.sub(r'-?\d[\d.e+-]*', 'N', reason)
