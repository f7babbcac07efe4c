"""Everything that a sweep does with one network."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from mmdms.openmmlab.architecture import build_architecture, tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.example import example_of
from mmdms.openmmlab.export.export import plain_state, retrain_config
from mmdms.openmmlab.export.subnet import subnet_config, without_pretrained
from mmdms.openmmlab.export.write import write_export
from mmdms.openmmlab.input_shape import infer_input_shape
from mmdms.openmmlab.model_space import build_model_space
from mmdms.slicing.slim import slim
from mmdms.space.search_space import SearchSpace
from mmdms.space.structure import Structure
from mmdms.tracing.partition import counts, partition
from mmdms.verification.parity import check_parity, prepare_for_parity
from mmdms.verification.verifier import random_structure

from .counted import compared, reasons
from .training import search_steps, training_step
from .zoo import Entry

RATIO = 0.5
"""Share of every unit, heads and blocks included, that a random structure keeps."""


def measure(
    entry: Entry,
    seeds: Sequence[int] = (0, 1, 2),
    reload: bool = True,
    save: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Trace a network; prune it at random, slice, compare and train one step per seed; export and reload once; search.

    Args:
        entry: the network.
        seeds: of the random structures.
        reload: whether the structure of the first seed is exported and loaded in a fresh process.
        save: called with the unfinished record whenever the next stage begins, so that a
            process that is killed leaves what it found. While there is one, ``stage`` names it.

    Returns:
        JSON types: what ``entry`` says, ``flops``, ``params``, ``units`` ([name, kind, total] each), ``frozen``
        ([module, reason, elements] each), ``dimensions`` of parameters (the number in every state), those that are
        ``unlisted``, ``prunable_flops_fraction``, ``trace_seconds`` of the processor, peak memory after the trace and
        at the end in MB, and for every seed ``parity``, the share of FLOPs that is left, ``loss``, what mmpretrain
        said if it does not train the network (``not_trained``) and, for the first, ``reload``. ``widths_parity`` is of
        the first seed with all blocks in place, ``search_losses`` of two steps of a search, in float32 if the network
        cannot in bfloat16 (``no_bfloat16`` says why). Beside ``flops`` of the network and of the first seed are
        ``mmengine_flops``; ``flops_reasons`` may explain a difference.

    Raises:
        Whatever a stage raises.
    """
    record: dict[str, Any] = dict(config=entry.config, kind=entry.kind, listed_shape=entry.listed_shape)

    def begin(stage: str) -> None:
        record['stage'] = stage
        save(record)

    begin('build')
    config = load_config(entry.config)
    shape = entry.input_shape or infer_input_shape(config)
    record['input_shape'] = list(shape)
    model = build(config)
    example = example_of(model, shape)
    inputs, real_inputs = example.inputs, example.flops_inputs or example.inputs

    begin('trace')
    since, wall = time.process_time(), time.perf_counter()
    space = build_model_space(model, shape)
    # Of the processor, so that what else the machine does is no part of it.
    record['trace_seconds'] = time.process_time() - since
    record['trace_wall_seconds'] = time.perf_counter() - wall
    record['trace_mb'] = peak_mb()
    full = torch.ones(space.num_elements)
    dimensions = partition(model, space)
    record.update(
        flops=int(space.cost('flops', full)),
        params=int(space.cost('params', full)),
        units=[[u.name, u.kind, u.total] for u in space.units],
        frozen=[[f.module, f.reason, f.elements] for f in space.frozen],
        prunable_flops_fraction=space.prunable_fraction('flops'),
        dimensions=counts(dimensions),
        unlisted=[f'{d.parameter}, dimension {d.dim}' for d in dimensions if d.state == 'unlisted'],
        seeds=[],
    )
    begin('count FLOPs')
    record.update(compared(model, space, None, real_inputs, tensor_forward), flops_reasons=reasons(model, space))
    for seed in seeds:
        row: dict[str, Any] = dict(seed=seed)
        begin(f'slice and compare, seed {seed}')
        structure = random_structure(space, RATIO, seed)
        row['flops_ratio'] = space.cost('flops', space.mask(structure)) / record['flops']
        row['parity'] = check_parity(model, space, structure, inputs, tensor_forward).to_dict()
        if seed == seeds[0]:
            row.update(compared(model, space, structure, real_inputs, tensor_forward))
        if seed == seeds[0] and reload:
            begin('export and reload')
            row['reload'] = export_and_reload(config, model, space, structure, inputs)
        begin(f'training step, seed {seed}')
        row['loss'], row['not_trained'] = training_step(
            slim(model, space, structure), config, inputs[0].shape[1:], seed
        )
        record['seeds'].append(row)
    begin('slice and compare, all blocks in place')
    # Half of one block is none: the widths of a block that is alone in its stage were not compared yet.
    widths = [index for index, unit in enumerate(space.units) if unit.kind != 'depth']
    structure = random_structure(space, RATIO, seeds[0], widths)
    record['widths_parity'] = check_parity(model, space, structure, inputs, tensor_forward).to_dict()
    record['peak_mb'] = peak_mb()
    begin('search steps in mixed precision')
    # Randomised as for parity: behind a layer of zeros, with which some networks begin, no mask has a gradient.
    masked = prepare_for_parity(model).float()
    record['search_losses'], record['no_bfloat16'] = search_steps(masked, space, config, inputs[0].shape[1:])
    del record['stage']
    return record


def build(config: Config) -> nn.Module:
    """The model of a config, initialised as a Runner would, without pretrained weights."""
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    model = build_architecture(without_pretrained(config.model), copy.deepcopy(config.get('data_preprocessor')))
    model.init_weights()
    return model


def export_and_reload(
    config: Config, model: nn.Module, space: SearchSpace, structure: Structure, inputs: tuple[Tensor, ...]
) -> dict[str, float]:
    """Write what ``tools/prune.py`` would; load and run it in a fresh process.

    The weights are randomised first as for parity: many networks start with an output of zeros.

    Returns:
        ``max_abs_diff`` and ``max_abs_output`` of the reloaded and the sliced network, both in float32; and
        ``missing``: how many keys the network does not load from a state of its own, so that it never loads strictly.

    Raises:
        RuntimeError: if the process fails; with what it said last.
    """
    supernet = prepare_for_parity(model).float()
    subnet = slim(supernet, space, structure)
    with torch.no_grad():
        expected = [t for t in tree_flatten(tensor_forward(subnet)(*inputs))[0] if isinstance(t, Tensor)]
    found = subnet_config(config.model, supernet, subnet, space, space.mask(structure))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / 'export'
        retrain = retrain_config(config, found, 'inherit')
        write_export(folder, retrain, dict(state_dict=plain_state(subnet)), structure.to_json(), {})
        missing = subnet.load_state_dict(subnet.state_dict(), strict=False).missing_keys
        torch.save(dict(inputs=inputs, expected=expected, missing=missing), folder / 'sample.pth')
        command = [sys.executable, str(Path(__file__).with_name('reload.py')), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['it said nothing'])[-1]
        raise RuntimeError(f'the export does not load, status {done.returncode}: {last}')
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == 'darwin' else peak * 1024 / 1e6
