"""What a row must reach."""

from __future__ import annotations

import math
from typing import Any

from .counted import TOLERANCE, too_far

PARITY = 1e-8
"""Largest difference of the sliced from the masked network in float64, as a share of the largest output."""
RELOAD = 1e-5
"""The same for the reloaded export and the sliced network, in float32."""
FRACTION = {
    'convolutional': 0.97, 'transformer': 0.95, 'hybrid': 0.90, 'one-stage': 0.95, 'two-stage': 0.90, 'detr': 0.90,
}  # fmt: skip
"""Smallest prunable share of the FLOPs."""
CLASSIFIERS = ('convolutional', 'transformer', 'hybrid')
TRACE_SECONDS = 10.0
PEAK_MB = 2000.0
"""Of the process, interpreter and libraries included, until its search space is verified."""


def worst(pairs: list[dict[str, float]]) -> float:
    """Largest ``max_abs_diff / max_abs_output``; nan if one is nan or compares nothing."""
    shares = [p['max_abs_diff'] / p['max_abs_output'] if p['max_abs_output'] > 0 else math.nan for p in pairs]
    return math.nan if any(math.isnan(share) for share in shares) else max(shares, default=math.nan)


def cut(share: float) -> str:
    """Four digits of a share, cut and not rounded: what misses a gate must not read as if it met it."""
    return f'{math.floor(share * 1e4) / 1e4:.4f}'


def parity_of(record: dict[str, Any]) -> float:
    """The worst parity of a record, as a share of the largest output."""
    widths = [record['widths_parity']] if 'widths_parity' in record else []
    return worst([*(row['parity'] for row in record['seeds'] if 'parity' in row), *widths])


def misses(record: dict[str, Any]) -> list[str]:
    """What keeps a row from passing, in words; empty if it passes.

    Args:
        record: of :func:`sweep.measure.measure`. One that was cut short has ``error`` and the ``stage`` of it.
    """
    if 'error' in record:
        return [f'{record["stage"]}: {record["error"]}']
    found = []
    seeds = record['seeds']
    parity = parity_of(record)
    if not parity <= PARITY:  # written so that nan misses too
        found.append(f'parity {parity:.1e} > {PARITY:g}')
    gate = FRACTION[record['kind']]
    if not record['prunable_flops_fraction'] >= gate:
        found.append(f'fraction {cut(record["prunable_flops_fraction"])} < {gate:g}')
    if record.get('unlisted'):  # older records have none
        found.append(f'unlisted {len(record["unlisted"])} dimensions, the first of {record["unlisted"][0]}')
    if too_far(record) and not record.get('flops_reasons'):
        found.append(f'FLOPs differ from mmengine by more than {TOLERANCE:g}')
    for row in seeds:
        if not math.isfinite(row['loss']):
            found.append(f'loss {row["loss"]} with seed {row["seed"]}')
    if not all(map(math.isfinite, record.get('search_losses', []))):  # older records have none
        found.append(f'loss of a search {record["search_losses"]}')
    reload = worst([row['reload'] for row in seeds if 'reload' in row]) if 'reload' in seeds[0] else 0.0
    if not reload <= RELOAD:
        found.append(f'reloaded export differs by {reload:.1e} > {RELOAD:g}')
    if record['kind'] in CLASSIFIERS and not record['trace_seconds'] < TRACE_SECONDS:
        found.append(f'trace {record["trace_seconds"]:.1f} s >= {TRACE_SECONDS:g} s')
    if record['kind'] in CLASSIFIERS and not record['trace_mb'] < PEAK_MB:
        found.append(f'memory {record["trace_mb"] / 1000:.2f} GB >= {PEAK_MB / 1000:g} GB')
    return found
