"""Tiny networks and the parity check that tests of tracing and slicing share."""

import torch
from torch import nn

from helpers.partitioned import assert_partition
from mmdms.api import build_search_space
from mmdms.space.frozen import Frozen
from mmdms.space.search_space import SearchSpace
from mmdms.tracing.frozen import ENTRIES
from mmdms.verification.parity import check_parity


class Net(nn.Module):
    """Named layers and a function ``forward(net, x)``."""

    def __init__(self, run, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, *inputs):
        return self.run(self, *inputs)


def conv(inputs, outputs, kernel=1, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


def image(channels=3, size=4):
    """The same input every time."""
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(1))


def sizes(space: SearchSpace) -> dict[str, int]:
    """Elements per unit."""
    return {unit.name: unit.total for unit in space.units}


PLAIN = ('no channel', ENTRIES)
OF_EVERY_NETWORK = ('reaches an output of the network', 'reads an input of the network or a constant')


def reasons(space: SearchSpace) -> dict[str, str]:
    """Every reason per module but those of ``remarkable``."""
    found: dict[str, str] = {}
    for frozen in remarkable(space):
        found[frozen.module] = f'{found.get(frozen.module, "")}{frozen.reason}; '
    return found


def remarkable(space: SearchSpace) -> list[Frozen]:
    """What is frozen, without inputs and outputs, tables of positions, and where no channel lies."""
    return [f for f in space.frozen if not any(plain in f.reason for plain in (*OF_EVERY_NETWORK, *PLAIN))]


def random_mask(space: SearchSpace, seed: int) -> torch.Tensor:
    """Mask (elements,) of a random structure: every unit keeps a random number of random elements."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for unit in space.units:
        count = int(torch.randint(unit.minimum, unit.total + 1, (), generator=generator))
        part = torch.zeros(unit.total, dtype=torch.bool)
        drawn = torch.randperm(unit.total, generator=generator)[:count]
        part[torch.arange(count) if unit.mutable.prefix_only else drawn] = True
        parts.append(part)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)


def assert_parity(model, space, *inputs, forward=None, seeds=3, tolerance=1e-12):
    """Three random structures, sliced and masked, give the same output in float64."""
    for seed in range(seeds):
        structure = space.structure(random_mask(space, seed))
        parity = check_parity(model, space, structure, inputs, forward)
        assert parity.max_abs_output > 0, 'an output of zeros compares nothing'
        assert parity.max_abs_diff <= tolerance * parity.max_abs_output, structure.report()


def space_of(model, *inputs, **kwargs) -> SearchSpace:
    """Search space, verified, whose structures were compared with their masks."""
    space = build_search_space(model, inputs, **kwargs)
    assert_partition(model, space)
    assert_parity(model, space, *inputs)
    return space
