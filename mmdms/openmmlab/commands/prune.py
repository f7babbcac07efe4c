"""What ``tools/prune.py`` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from tabulate import tabulate

from ...errors import CheckpointError, ConfigError
from ...mutators.dpf import DPFMutator
from ...verification.parity import TOLERANCE
from ..averaged_weights import choose_weights
from ..checkpoints import check_finite, check_state_dict, read_checkpoint
from ..export.export import export
from ..export.weights import export_weights
from ..export.write import CHECKPOINT, FILES, check_output
from .search_config import build_algorithm


def prune(
    config: Config,
    checkpoint: str,
    out_dir: str,
    init: str = 'inherit',
    overwrite: bool = False,
    averaged: bool | None = None,
    sparse: bool = False,
) -> dict[str, Any]:
    """Load a searched or pruned network, slice it or set its pruned weights to 0, write it, print what came out.

    ``averaged`` chooses weights, see :func:`mmdms.openmmlab.averaged_weights.choose_weights`; ``sparse`` is for
    single weights, see :func:`mmdms.openmmlab.export.weights.export_weights`.

    Raises:
        ConfigError, CheckpointError, BudgetError: for input that cannot be used; nothing is written.
    """
    folder = check_output(out_dir, overwrite)
    state = choose_weights(read_checkpoint(checkpoint), checkpoint, averaged)
    algorithm = build_algorithm(config)
    check_state_dict(algorithm, state, checkpoint)
    own = algorithm.state_dict()
    unknown = [key for key in state if key not in own]
    if unknown:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} is of another architecture than the config: it has {unknown[0]!r}, '
            'which the supernet does not; give the config that it was searched with'
        )
    algorithm.load_state_dict(state)
    check_finite(algorithm, checkpoint)
    if isinstance(algorithm.mutator, DPFMutator):
        report = export_weights(algorithm, config, folder, init, sparse)
        _print(report, folder)
        return report
    if sparse:
        raise ConfigError(
            f'--sparse is for single weights (DPFMutator), and {type(algorithm.mutator).__name__} removes channels: '
            'the exported network is smaller and dense; leave --sparse out'
        )
    if not algorithm.mutator.settled:
        print(
            'this checkpoint is from before the search fixed its structure: exporting the nearest structure that '
            'meets the budget; it will score below what the search logged until it is retrained'
        )
    report = export(algorithm, config, folder, init)
    _print(report, folder)
    return report


def _print(report: dict[str, Any], folder: Path) -> None:
    rows = [
        [metric, report[metric]['supernet'], report[metric]['subnet'], f'{report[metric]["ratio"]:.4f}']
        for metric in ('flops', 'params')
    ]
    print(tabulate([[unit['name'], unit['kind'], unit['total'], unit['kept']] for unit in report['units']],
                   headers=['unit', 'kind', 'total', 'kept']))  # fmt: skip
    print()
    print(tabulate(rows, headers=['', 'supernet', 'subnet', 'ratio'], intfmt=','))
    budget, parity = report['budget'], report['parity']
    if budget['metric'] == 'sparsity':
        print(f'sparsity: {budget["achieved"]:.4f} of the prunable weights, target {budget["target"]:.4f}')
    else:
        print(
            f'budget: {budget["metric"]} at most {budget["target"]:.4f} of the supernet, '
            f'achieved {budget["achieved"]:.4f}'
        )
        if not budget['met']:
            print(f'        this is the nearest structure below it that was found; {budget["reason"]}')
    holds = parity['max_abs_diff'] <= TOLERANCE * parity['max_abs_output']
    print(
        f'parity: exported and masked network differ by {parity["max_abs_diff"]:.3g} of {parity["max_abs_output"]:.3g}'
    )
    if not holds:
        raise CheckpointError('the exported network is not the masked one: this is a bug in mmdms, please report it')
    size = os.path.getsize(folder / CHECKPOINT) / 1e6
    print(
        f'wrote {folder}: {", ".join(name for name in FILES if (folder / name).exists())} ({size:.1f} MB of weights)'
    )
