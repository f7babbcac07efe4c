"""Runs of residual blocks, any of which can be removed."""

from __future__ import annotations

import numpy as np
import torch

from .labels import Frozen, compact
from .patterns import Patterns
from .records import BlockCall, Trace


def find_runs(
    trace: Trace, classes: np.ndarray, patterns: Patterns
) -> tuple[list[tuple[str, list[str]]], list[Frozen]]:
    """Find depth units.

    A block belongs to one if it stands in a Sequential or ModuleList, gives out
    the shape and the channel elements that it takes in, carries its input
    unchanged to its output along some path (so that removing it leaves an
    identity), holds at least one weight, and holds no smaller such block.

    Returns:
        (container, blocks) pairs in the order of the network, and the list of
        blocks left out with their reason.
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
        container = container or 'network'  # the network itself is a Sequential
        names[container] = names.get(container, 0) + 1
        result.append((container if names[container] == 1 else f'{container}#{names[container]}', blocks))
    return result, problems


def _inside(module: str, block: str) -> bool:
    return module == block or module.startswith(f'{block}.')


def _same_elements(block: BlockCall, classes: np.ndarray) -> bool:
    before, after = compact(block.input_labels), compact(block.output_labels)
    before, after = torch.broadcast_tensors(before, after)
    return bool(np.array_equal(classes[before.numpy()], classes[after.numpy()]))
