"""What ``tools/prune.py`` does."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tabulate import tabulate

from ..errors import CheckpointError, ConfigError
from ..export.export import export
from ..export.parity import TOLERANCE
from ..export.subnet import without_pretrained
from ..export.write import check_output
from ..models.algorithms.dms import DMSAlgorithm
from ..utils.checkpoint import check_state_dict, read_checkpoint
from ..utils.config import check_model_types


def prune(
    config: Config, checkpoint: str, out_dir: str, init: str = 'inherit', overwrite: bool = False
) -> dict[str, Any]:
    """Load a searched supernet, slice it, write it, print what came out.

    Raises:
        ConfigError, CheckpointError, BudgetError: for input that cannot be used; nothing is written.
    """
    folder = check_output(out_dir, overwrite)
    state = read_checkpoint(checkpoint)['state_dict']
    algorithm = build_algorithm(config)
    check_state_dict(algorithm, state, checkpoint)
    algorithm.load_state_dict(state)
    report = export(algorithm, config, folder, init)
    _print(report, str(folder))
    return report


def build_algorithm(config: Config) -> DMSAlgorithm:
    """Build the supernet of a search config, its pretrained weights left out.

    Raises:
        ConfigError: if the config is not one of a search.
    """
    model = config.get('model') or {}
    if 'mutator' not in model:
        raise ConfigError(
            f'config {config.filename!r} is no search config: its model is {model.get("type")!r}; '
            'give the config that tools/train.py searched with'
        )
    init_default_scope(config.get('default_scope') or 'mmengine')
    check_model_types(config)
    built = without_pretrained(model)
    if config.get('data_preprocessor') is not None:
        built.setdefault('data_preprocessor', config.data_preprocessor)
    return MODELS.build(built)


def _print(report: dict[str, Any], folder: str) -> None:
    rows = [
        [metric, report[metric]['supernet'], report[metric]['subnet'], f'{report[metric]["ratio"]:.4f}']
        for metric in ('flops', 'params')
    ]
    print(tabulate([[unit['name'], unit['kind'], unit['total'], unit['kept']] for unit in report['units']],
                   headers=['unit', 'kind', 'total', 'kept']))  # fmt: skip
    print()
    print(tabulate(rows, headers=['', 'supernet', 'subnet', 'ratio'], intfmt=','))
    budget, parity = report['budget'], report['parity']
    print(
        f'budget: {budget["metric"]} at most {budget["target"]:.4f} of the supernet, achieved {budget["achieved"]:.4f}'
    )
    if budget['achieved'] < 0.99 * budget['target']:
        print('        this is the nearest structure below the budget: a smaller divisor would come closer')
    holds = parity['max_abs_diff'] <= TOLERANCE * parity['max_abs_output']
    print(
        f'parity: sliced and masked network differ by {parity["max_abs_diff"]:.3g} of {parity["max_abs_output"]:.3g}'
    )
    if not holds:
        raise CheckpointError('the sliced network is not the masked one: this is a bug in mmdms, please report it')
    print(f'wrote {folder}: config.py, checkpoint.pth, subnet.json, report.json')
