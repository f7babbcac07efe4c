"""Runs of residual blocks, any of which can be removed."""

from __future__ import annotations

import numpy as np
import torch

from .labels import Frozen, compact
from .patterns import Patterns
from .records import BlockCall, Trace

Group = tuple[str, ...]
"""Blocks that go or stay together; nearly always one."""


def find_runs(
    trace: Trace, classes: np.ndarray, patterns: Patterns
) -> tuple[list[tuple[str, list[Group]]], list[Frozen]]:
    """Find depth units.

    A block belongs to one if it stands in a Sequential or ModuleList, or has a
    number at the end of its name (``layer3`` of several), gives out the shape
    and the channel elements that it takes in, carries its input unchanged to its
    output along some path (so that removing it leaves an identity), holds at
    least one weight, and holds no smaller such block. Where ``trace.together``
    says so, neighbours in a container are one element.

    Returns:
        (container, groups of blocks) pairs in the order of the network, and the
        list of blocks left out with their reason.
    """
    problems: list[Frozen] = []
    weights = {axis.module for axis in trace.axes.values() if axis.role == 'in'}
    found: dict[str, BlockCall] = {}
    for name, block in trace.blocks.items():
        if not block.has_identity or not any(_inside(module, name) for module in weights):
            continue
        if not _same_elements(block, classes) or not patterns.selects(name):
            continue
        if block.problem is not None:
            problems.append(Frozen(name, f'the block stays: it {block.problem}', 0))
            continue
        found[name] = block
    innermost = [name for name in found if not any(other != name and _inside(other, name) for other in found)]
    runs: dict[tuple[str, bytes], list[str]] = {}
    for name in innermost:
        stream = np.unique(classes[compact(found[name].input_labels).numpy()])
        runs.setdefault((name.rpartition('.')[0], stream.tobytes()), []).append(name)
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
    before, after = compact(block.input_labels), compact(block.output_labels)
    before, after = torch.broadcast_tensors(before, after)
    return bool(np.array_equal(classes[before.numpy()], classes[after.numpy()]))
