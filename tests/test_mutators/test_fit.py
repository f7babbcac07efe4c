import re

import pytest
import torch
from helpers.tiny import Net, conv, image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from mmdms.api import build_search_space
from mmdms.errors import BudgetError, ConfigError
from mmdms.mutators.budgets.fit import check_budget, fit_to_budget, unit_divisors
from mmdms.ops.topk import normalized_ranks
from mmdms.space.structure import UnitInfo


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.a, self.b = conv(width, inner), conv(inner, width)

    def forward(self, x):
        return x + self.b(self.a(x))


def searched(*widths, blocks=0):
    """Space of a chain of layers of these widths, after which ``blocks`` residual blocks follow."""
    chain = [conv(3 if i == 0 else widths[i - 1], width) for i, width in enumerate(widths)]
    stage = nn.Sequential(*[Block(widths[-1], 24) for _ in range(blocks)])
    net = Net(
        lambda n, x: n.out(n.stage(n.chain(x))), chain=nn.Sequential(*chain), stage=stage, out=conv(widths[-1], 10)
    )
    return build_search_space(net, image(size=2), verify=False)


WIDE = searched(64, 96, 128, 64, blocks=3)
TINY = searched(5, 6, 7)


def ranks_of(space, seed=0):
    importance = torch.rand(space.num_elements, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalized_ranks(importance, space.unit_of_element, torch.tensor([u.total for u in space.units]))


def full_cost(space, metric='flops'):
    return space.cost(metric, torch.ones(space.num_elements))


def counts(space, mask):
    return [int(part.sum()) for part in mask.split([u.total for u in space.units])]


def ratios(space, low=0.05):
    size = len(space.units)
    return st.lists(st.floats(low, 1), min_size=size, max_size=size).map(
        lambda x: torch.tensor(x, dtype=torch.float64)
    )


def check_fitted(space, mask, metric, target, divisors, ranks):
    """What holds of every fitted mask: within the budget, on the divisor, best ranked."""
    share = space.cost(metric, mask) / full_cost(space, metric)
    assert share <= target * (1 + 1e-12)
    totals = [u.total for u in space.units]
    for part, rank, info, step in zip(mask.split(totals), ranks.split(totals), space.units, divisors.tolist()):
        kept = int(part.sum())
        assert kept >= info.minimum
        assert kept % step == 0 or kept == info.total, (info, kept, step)
        assert bool(part[torch.argsort(rank)[:kept]].all())
    return share


settle = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settle
@given(ratios(WIDE, 0.2), st.floats(0.2, 1), st.sampled_from(['flops', 'params']))
def test_budget_is_met_from_below_within_one_percent(keep_ratio, target, metric):
    divisors = torch.ones(len(WIDE.units), dtype=torch.long)
    ranks = ranks_of(WIDE)
    mask = fit_to_budget(WIDE, metric, target, keep_ratio, ranks, divisors)
    share = check_fitted(WIDE, mask, metric, target, divisors, ranks)
    # Unless depth, which stays as searched, leaves less than that in all.
    depth_full = mask.clone()
    for offset, unit in zip(WIDE.offsets, WIDE.units):
        if unit.kind == 'channels':
            depth_full[offset : offset + unit.total] = True
    reachable = WIDE.cost(metric, depth_full) / full_cost(WIDE, metric)
    assert share >= 0.99 * min(target, reachable)


@settle
@given(ratios(WIDE, 0.2), st.floats(0.3, 1))
def test_budget_is_met_on_the_divisor(keep_ratio, target):
    divisors = unit_divisors(WIDE.units)
    assert set(divisors.tolist()) == {1, 2, 8}
    ranks = ranks_of(WIDE)
    mask = fit_to_budget(WIDE, 'flops', target, keep_ratio, ranks, divisors)
    check_fitted(WIDE, mask, 'flops', target, divisors, ranks)


@settle
@given(ratios(TINY), st.floats(0, 1))
def test_every_reachable_budget_of_a_tiny_network_is_met(keep_ratio, position):
    lowest = 1 - TINY.prunable_fraction()
    target = lowest + (1 - lowest) * position
    divisors = torch.ones(3, dtype=torch.long)
    mask = fit_to_budget(TINY, 'flops', target, keep_ratio, ranks_of(TINY), divisors)
    check_fitted(TINY, mask, 'flops', target, divisors, ranks_of(TINY))


def test_the_whole_network():
    keep_ratio = torch.full((len(WIDE.units),), 0.5)
    keep_ratio[-1] = 1.0  # all blocks
    mask = fit_to_budget(WIDE, 'flops', 1.0, keep_ratio, ranks_of(WIDE), unit_divisors(WIDE.units))
    assert bool(mask.all())


def test_the_smallest_network():
    keep_ratio = torch.ones(len(WIDE.units))
    lowest = 1 - WIDE.prunable_fraction()
    mask = fit_to_budget(WIDE, 'flops', lowest + 1e-9, keep_ratio, ranks_of(WIDE), unit_divisors(WIDE.units))
    # One channel per layer and no block; how wide a removed block is costs nothing.
    assert counts(WIDE, mask)[:4] == [1, 1, 1, 1] and counts(WIDE, mask)[-1] == 0
    assert WIDE.cost('flops', mask) == WIDE.cost('flops', WIDE.minimum_mask())


def test_a_structure_on_the_budget_stays_as_searched():
    # The budget is what 32 of 64, 48 of 96, 64 of 128, 32 of 64, 8 of 24 in each block, all blocks cost.
    wanted = [32, 48, 64, 32, 8, 8, 8, 3]
    keep_ratio = torch.tensor([k / u.total for k, u in zip(wanted, WIDE.units, strict=True)], dtype=torch.float64)
    ranks = ranks_of(WIDE)
    unit = WIDE.unit_of_element
    mask = (ranks * torch.tensor([u.total for u in WIDE.units])[unit]).floor() < torch.tensor(wanted)[unit]
    target = WIDE.cost('flops', mask) / full_cost(WIDE) * (1 + 1e-9)
    assert torch.equal(fit_to_budget(WIDE, 'flops', target, keep_ratio, ranks, unit_divisors(WIDE.units)), mask)


@pytest.mark.parametrize(
    ('total', 'divisor', 'step'),
    [
        (64, 'auto', 8),
        (128, 'auto', 8),
        (63, 'auto', 4),
        (32, 'auto', 4),
        (16, 'auto', 2),
        (8, 'auto', 1),
        (100, 16, 16),
        (6, 16, 6),
    ],
)
def test_divisors(total, divisor, step):
    units = [UnitInfo('a', 'channels', total), UnitInfo('b', 'depth', total)]
    assert unit_divisors(units, divisor).tolist() == [step, 1]


@pytest.mark.parametrize('divisor', [0, -8, 1.5, True, 'largest', None])
def test_bad_divisors(divisor):
    with pytest.raises(
        ConfigError, match=re.escape(f"divisor must be 'auto' or a whole number from 1, but it is {divisor!r}")
    ):
        unit_divisors([], divisor)


@pytest.mark.parametrize('target', [0, -0.5, 1.01, True, '0.5', None, float('nan')])
def test_bad_targets(target):
    with pytest.raises(ConfigError, match=re.escape(f'share of the supernet in (0, 1], but it is {target!r}')):
        check_budget(WIDE, 'flops', target)


def test_an_unknown_metric():
    with pytest.raises(
        ConfigError, match=re.escape("budget metric must be one of ['flops', 'params'], but it is 'energy'")
    ):
        check_budget(WIDE, 'energy', 0.5)


@pytest.mark.parametrize('space', [WIDE, TINY])
def test_a_budget_out_of_reach_names_one_within_reach(space):
    with pytest.raises(BudgetError, match='budget target 1e-05 of flops is out of reach') as caught:
        check_budget(space, 'flops', 1e-5)
    named = float(re.search(r'still costs (\S+) of', str(caught.value)).group(1))
    lowest = space.cost('flops', space.minimum_mask()) / full_cost(space)
    assert lowest <= named < lowest + 1e-4
    check_budget(space, 'flops', named)
