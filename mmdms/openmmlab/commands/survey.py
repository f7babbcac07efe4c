"""What ``tools/search_space.py`` does: survey a network and print what could be searched."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tabulate import tabulate

from ...errors import ConfigError
from ...mutables import build_mutables, left_out
from ...mutators.left_out import without_kinds
from ...slicing.slim import slim
from ...tracing.partition import Dimension, counts, partition
from ...verification.parity import check_parity
from ...verification.verifier import random_structure
from ..architecture import build_architecture, check_input_shape, tensor_forward
from ..configs import check_model_types, require_keys
from ..example import example_of
from ..export.subnet import without_pretrained
from ..input_shape import infer_input_shape
from ..model_space import build_model_space
from .offline import no_downloads, weights_named


def survey(
    config: Config,
    input_shape: list[int] | None = None,
    ratio: float | None = None,
    seed: int = 0,
    json_file: str | None = None,
) -> dict[str, Any]:
    """Trace and verify the network of a config, and print its units.

    Args:
        config: an ordinary config, or that of a search.
        input_shape: ``[channels, height, width]``; found in the config if None.
        ratio: keep this share of every unit at random, slice for real, compare.
        seed: of that structure.
        json_file: where to write the result as JSON too.

    Returns:
        The result, with the keys that DESIGN.md section 6 lists.

    Raises:
        ConfigError: for input that cannot be used.
    """
    if ratio is not None and not 0 <= ratio <= 1:
        raise ConfigError(f'--random-prune must be a share in [0, 1], but it is {ratio}')
    require_keys(config, ['model'], 'trace')
    shape = check_input_shape(input_shape or infer_input_shape(config))
    model_config = without_pretrained(config.model)
    searched = 'mutator' in model_config
    init_default_scope(config.get('default_scope') or 'mmengine')
    check_model_types(config)
    architecture = model_config['architecture'] if searched else model_config
    left_out = weights_named('model', config.model)
    if left_out:
        print(f'built without pretrained weights, which a survey does not need: {", ".join(left_out)} left out')
    with no_downloads(model_config):
        model = build_architecture(architecture, config.get('data_preprocessor'))
    patterns = {key: model_config[key] for key in ('include', 'exclude') if searched and key in model_config}
    begin = time.perf_counter()
    space = build_model_space(model, shape, **patterns)
    if searched:
        space = without_kinds(space, _left_out(model_config['mutator']))
    seconds = time.perf_counter() - begin
    dimensions = partition(model, space)

    result: dict[str, Any] = dict(
        units=[dict(name=u.name, kind=u.kind, total=u.total) for u in space.units],
        elements=space.num_elements,
        depth_units=sum(u.mutable.gates_modules for u in space.units),
        trace_seconds=seconds,
        frozen=[dict(module=f.module, reason=f.reason, elements=f.elements) for f in space.frozen],
        prunable_flops_fraction=space.prunable_fraction('flops'),
        flops=int(space.cost('flops', torch.ones(space.num_elements))),
        params=sum(p.numel() for p in model.parameters()),
        input_shape=list(shape),
        uncounted=dict(space.uncounted),
        parameter_dimensions=dict(counts=counts(dimensions), rows=[_row(dimension) for dimension in dimensions]),
    )
    if ratio is not None:
        structure = random_structure(space, ratio, seed)
        subnet = slim(model, space, structure)
        parity = check_parity(model, space, structure, example_of(model, shape).inputs, tensor_forward)
        result['supernet'] = dict(flops=result['flops'], params=result['params'])
        result['flops'] = int(space.cost('flops', space.mask(structure)))
        result['params'] = sum(p.numel() for p in subnet.parameters())
        result['parity'] = parity.to_dict()
        for row, kept in zip(result['units'], structure.report(), strict=True):
            row['kept'] = kept['kept']
    _print(result)
    if json_file is not None:
        Path(json_file).write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return result


def _left_out(mutator: Any) -> list[str]:
    """Kinds of units that the config of a mutator leaves out of the search."""
    options = mutator.get('mutables') if isinstance(mutator, Mapping) else None
    build_mutables(options, 'model.mutator.mutables')
    return left_out(options)


def _print(result: dict[str, Any]) -> None:
    units = result['units']
    print(tabulate([list(row.values()) for row in units], headers=list(units[0]) if units else []))
    _print_frozen(result['frozen'])
    _print_dimensions(result['parameter_dimensions']['counts'])
    print()
    print(f'input {"x".join(map(str, result["input_shape"]))}: {_size(result.get("supernet", result))}')
    print(
        f'{len(units)} units ({result["depth_units"]} of depth), {result["elements"]} elements; '
        f'{result["prunable_flops_fraction"]:.1%} of the FLOPs can be removed; '
        f'traced and verified in {result["trace_seconds"]:.1f} s'
    )
    if result['uncounted']:
        operations = Counter(result['uncounted'].values())
        listed = ', '.join(f'{count} x {name}' for name, count in operations.items())
        print(f'not counted among the FLOPs, as OpenMMLab does not count it: {listed}')
    if 'parity' in result:
        parity = result['parity']
        print(f'pruned at random: {_size(result)}')
        print(
            'sliced and masked network differ by '
            f'{parity["max_abs_diff"]:.3g}, with outputs up to {parity["max_abs_output"]:.3g}'
        )


def _row(dimension: Dimension) -> dict[str, Any]:
    """A dimension as JSON types; its reasons are those of ``frozen``, each with its module."""
    row = {key: getattr(dimension, key) for key in ('parameter', 'dim', 'size', 'state', 'kept')}
    row['reasons'] = [dict(module=reason.module, reason=reason.reason) for reason in dimension.reasons]
    return row


def _print_frozen(frozen: list[dict[str, Any]]) -> None:
    """A table with one row per reason and kind of module: modules that differ in a number alone are one kind."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in frozen:
        kinds.setdefault((_numberless(row['module']), _numberless(row['reason'])), []).append(row)
    if not kinds:
        return
    rows = []
    for (module, _), same in kinds.items():
        place = (same[0]['module'] if len(same) == 1 else f'{module} ({len(same)})') or '(network)'
        rows.append([place, sum(row['elements'] for row in same), same[0]['reason']])
    print()
    print(tabulate(rows, headers=['frozen at', 'elements', 'reason']))


def _numberless(text: str) -> str:
    return re.sub(r'\d+', '*', text)


def _print_dimensions(found: dict[str, int]) -> None:
    print()
    print(
        f'dimensions above 1 of parameters: {found["searched"]} searched, {found["follows"]} follow these, '
        f'{found["frozen"]} frozen; {found["kernel"]} more are spatial extents of convolutions'
    )
    if 'unlisted' in found:
        print(f'{found["unlisted"]} more are neither searched nor frozen: a fault of mmdms, please report it')


def _size(figures: dict[str, Any]) -> str:
    return f'{figures["flops"] / 1e9:.3f} G multiply-accumulates, {figures["params"] / 1e6:.3f} M parameters'
