"""Search spaces made of a random cost table alone, and what holds of structures fitted to a budget."""

import random

import torch

from mmdms.ops.topk import normalized_ranks
from mmdms.space.cost_table import CostTableBuilder
from mmdms.space.search_space import FIXED, SearchSpace
from mmdms.space.structure import UnitInfo


def drawn_space(seed, most=24):
    """Some units of channels, heads and blocks, and rows of up to three factors, gated or not."""
    rng = random.Random(seed)
    kinds = ['channels'] * rng.randint(1, 5) + ['heads'] * rng.randint(0, 1) + ['depth'] * rng.randint(0, 3)
    sizes = dict(channels=most, heads=6, depth=5)
    units = [UnitInfo(f'{kind}{i}', kind, rng.randint(1, sizes[kind])) for i, kind in enumerate(kinds)]
    starts = [sum(u.total for u in units[:i]) for i in range(len(units))]
    elements = [torch.arange(start, start + u.total) for start, u in zip(starts, units)]
    widths = [e for e, u in zip(elements, units) if u.kind != 'depth']
    blocks = [int(e) for part, u in zip(elements, units) if u.kind == 'depth' for e in part]
    builder = CostTableBuilder(units)
    for part in widths:
        builder.add(rng.randint(1, 20), [part[:, None]], None)
    for gate in [None, None, *blocks]:
        axes = [single(rng, rng.choice(widths))]
        if len(widths) > 1 and rng.random() < 0.4:
            axes.append(torch.cartesian_prod(*rng.sample(widths, 2)))  # heads times width
        elif rng.random() < 0.7:
            axes.append(single(rng, rng.choice(widths)))
        builder.add(rng.randint(1, 50), axes, gate)
    return SearchSpace(units, [], {'flops': builder.build()}, [])


def single(rng, elements):
    """An axis of elements, with some positions before them that always stay."""
    return torch.cat([torch.full((rng.randint(0, 3),), FIXED), elements])[:, None]


def table_of(units, *rows):
    """A space whose cost is that of rows ``(coefficient, unit or None, gate or None)``."""
    builder = CostTableBuilder(units)
    starts = [sum(u.total for u in units[:i]) for i in range(len(units))]
    for coefficient, unit, gate in rows:
        axes = [] if unit is None else [torch.arange(starts[unit], starts[unit] + units[unit].total)[:, None]]
        builder.add(coefficient, axes, gate)
    return SearchSpace(units, [], {'flops': builder.build()}, [])


def full_cost(space, metric='flops'):
    return space.cost(metric, torch.ones(space.num_elements))


def share_of(space, mask, metric='flops'):
    return space.cost(metric, mask) / full_cost(space, metric)


def ranks_of(space, seed=0):
    importance = torch.rand(space.num_elements, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalized_ranks(importance, space.unit_of_element, torch.tensor([u.total for u in space.units]))


def grown(space, mask, ranks, divisors):
    """Masks with one step or block more in one unit, its best ranked ones that are gone."""
    for start, unit, step in zip(space.offsets, space.units, divisors.tolist()):
        part = slice(start, start + unit.total)
        gone = part.start + (~mask[part]).nonzero().flatten()
        if len(gone):
            more = mask.clone()
            more[gone[torch.argsort(ranks[gone])][: step if unit.kind == 'channels' else 1]] = True
            yield unit, more


def assert_near_or_maximal(space, mask, metric, target, divisors, ranks):
    """At most the target, and at least 99% of it unless not one step or block can be added."""
    share = share_of(space, mask, metric)
    assert share <= target
    if share < 0.99 * target:
        for unit, more in grown(space, mask, ranks, divisors):
            assert share_of(space, more, metric) > target, f'one step more of {unit} fits: {share} of {target}'
