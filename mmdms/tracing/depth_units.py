"""Runs of residual blocks, any of which can be removed."""

from __future__ import annotations

import numpy as np
import torch

from ..space.frozen import Frozen
from ..space.patterns import Patterns
from .labels import compact
from .trace import BlockCall, Trace

Group = tuple[str, ...]
"""Blocks that go or stay together; nearly always one."""

RunKey = tuple[str, object]
"""Container of a run, and what else tells its runs apart."""


def find_runs(
    trace: Trace, classes: np.ndarray, patterns: Patterns
) -> tuple[list[tuple[str, list[Group]]], list[Frozen]]:
    """Find depth units.

    A block belongs to one if it stands in a Sequential or ModuleList, or has a
    number at the end of its name (``layer3`` of several), gives out the shape
    and the channel elements that it takes in, carries its input unchanged to its
    output along some path (so that removing it leaves an identity), costs
    something, and holds no smaller such block. A block of depthwise layers alone
    counts only outside all others. A block may hand on several of its arguments
    in a tuple where ``trace.streams`` says so; then all this holds for each. Where
    ``trace.together`` says so, neighbours in a container are one element. Blocks
    that are alone in their container are a run with those in the containers beside it.

    Returns:
        (container, groups of blocks) pairs in the order of the network, and the
        list of blocks left out with their reason.
    """
    problems: list[Frozen] = []
    costly = {term.module for term in trace.costs}
    found: dict[str, BlockCall] = {}
    unsaid: dict[str, BlockCall] = {}
    for name, block in trace.blocks.items():
        if not block.has_identity or not any(_inside(module, name) for module in costly):
            continue
        if not _same_elements(block, classes):
            continue
        if block.problem is not None:
            problems.append(Frozen(name, f'the block stays: it {block.problem}', 0))
            continue
        if block.outputs != trace.streams.get(name, 1):
            unsaid[name] = block
            continue
        found[name] = block
    for name, block in unsaid.items():
        if not any(_inside(other, name) for other in found):  # a stage of blocks that can be removed is none itself
            reason = f'the block stays: it hands on {block.outputs} arguments, and no adapter says so'
            problems.append(Frozen(name, reason, 0))
    runs: dict[RunKey, list[str]] = {}
    # Patterns come last: a stage does not stand for blocks in it that are left out.
    for name in filter(patterns.selects, _innermost(trace, list(found))):
        stream = np.unique(classes[compact(found[name].input_labels).numpy()])
        runs.setdefault((name.rpartition('.')[0], stream.tobytes()), []).append(name)
    runs = _join_lonely(runs, found)
    names: dict[str, int] = {}
    result = []
    for (container, _), blocks in runs.items():
        groups = _groups(blocks, trace.together.get(container, 1), problems)
        container = container or 'network'  # the network itself is a Sequential
        if not groups:
            continue
        names[container] = names.get(container, 0) + 1
        result.append((container if names[container] == 1 else f'{container}#{names[container]}', groups))
    return result, problems


def _innermost(trace: Trace, names: list[str]) -> list[str]:
    """Blocks to be removed, of those that could be: none of them holds another."""
    weights = {axis.module for axis in trace.axes.values() if axis.role == 'in'}
    whole = [name for name in names if any(_inside(module, name) for module in weights)]
    light = [name for name in names if not any(_inside(name, block) for block in whole)]
    kept = [
        name
        for same in (whole, light)
        for name in same
        if not any(other != name and _inside(other, name) for other in same)
    ]
    return [name for name in names if name in kept]


def _join_lonely(runs: dict[RunKey, list[str]], found: dict[str, BlockCall]) -> dict[RunKey, list[str]]:
    """Join blocks of one shape that are alone in neighbouring containers (``stages.0.0``, ``stages.1.0``)."""
    rows: dict[RunKey, list[RunKey]] = {}
    for key, blocks in runs.items():
        row, _, place = key[0].rpartition('.')
        if len(blocks) == 1 and place.isdigit():
            child = blocks[0].rpartition('.')[2]
            rows.setdefault((row, (child, tuple(found[blocks[0]].input_labels.shape))), []).append(key)
    row_of = {key: row for row, keys in rows.items() if len(keys) > 1 for key in keys}
    joined: dict[RunKey, list[str]] = {}
    for key, blocks in runs.items():
        joined.setdefault(row_of.get(key, key), []).extend(blocks)
    return joined


def _groups(blocks: list[str], size: int, problems: list[Frozen]) -> list[Group]:
    """Blocks by place in their container, ``size`` neighbours to a group; groups that are not whole are reported."""
    groups: dict[int, list[str]] = {}
    for block in blocks:
        place = int(block.rpartition('.')[2]) // size if size > 1 else len(groups)
        groups.setdefault(place, []).append(block)
    for group in groups.values():
        if len(group) < size:
            problems.append(Frozen(group[0], f'the block stays: it goes in groups of {size} only', 0))
    return [tuple(group) for group in groups.values() if len(group) == size]


def _inside(module: str, block: str) -> bool:
    return module == block or module.startswith(f'{block}.')


def _same_elements(block: BlockCall, classes: np.ndarray) -> bool:
    for before, after in block.streams:
        before, after = torch.broadcast_tensors(compact(before), compact(after))
        if not np.array_equal(classes[before.numpy()], classes[after.numpy()]):
            return False
    return True
