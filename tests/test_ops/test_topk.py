import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdms.ops.topk import hard_mask, normalized_ranks, soft_mask, straight_through


def unit_vectors(totals):
    """Unit of every element, and the totals, of units of these sizes."""
    totals = torch.tensor(totals)
    return torch.repeat_interleave(torch.arange(len(totals)), totals), totals


def all_pairs_ranks(importance):
    """Share of elements that outrank each: compares all pairs, ties go to the lower index."""
    n = len(importance)
    return [
        (sum(b > a or (b == a and j < i) for j, b in enumerate(importance)) + 0.5) / n
        for i, a in enumerate(importance)
    ]


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)
# Few distinct values, so that ties are common.
values = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1e6, allow_nan=False))


@st.composite
def importances(draw):
    """Sizes of units, and an importance for each element of each."""
    totals = draw(sizes)
    return totals, [draw(st.lists(values, min_size=n, max_size=n)) for n in totals]


@given(importances())
def test_ranks_equal_the_all_pairs_formula(data):
    totals, per_unit = data
    unit, totals_ = unit_vectors(totals)
    importance = torch.tensor(sum(per_unit, []), dtype=torch.float64)
    expected = sum((all_pairs_ranks(v) for v in per_unit), [])
    np.testing.assert_allclose(normalized_ranks(importance, unit, totals_), expected, rtol=1e-15)


def test_ranks_by_hand():
    unit, totals = unit_vectors([4, 2])
    ranks = normalized_ranks(torch.tensor([1.0, 7.0, 7.0, 9.0, 0.0, 5.0]), unit, totals)
    # 9 leads, then the first 7, the second 7, then 1; in the second unit 5 leads.
    assert ranks.tolist() == [0.875, 0.375, 0.625, 0.125, 0.75, 0.25]
    assert ranks.dtype == torch.float32


@given(importances(), st.randoms(use_true_random=False))
def test_order_equivariance_within_a_unit(data, random):
    totals, per_unit = data
    unit, totals_ = unit_vectors(totals)
    distinct = [[v + 1e7 * i for i, v in enumerate(u)] for u in per_unit]
    orders = [random.sample(range(n), n) for n in totals]
    ranks = normalized_ranks(torch.tensor(sum(distinct, []), dtype=torch.float64), unit, totals_)
    moved = sum(([u[i] for i in order] for u, order in zip(distinct, orders)), [])
    moved_ranks = normalized_ranks(torch.tensor(moved, dtype=torch.float64), unit, totals_)
    expected = [r[order] for r, order in zip(ranks.split(totals), orders)]
    assert torch.equal(moved_ranks, torch.cat(expected))


@given(importances(), st.floats(0, 1), st.floats(0.5, 4))
def test_many_units_at_once_equal_one_by_one(data, ratio, sharpness):
    totals, per_unit = data
    unit, totals_ = unit_vectors(totals)
    count = len(totals)
    importance = torch.tensor(sum(per_unit, []), dtype=torch.float64)
    keep = torch.linspace(ratio, 1 - ratio, count, dtype=torch.float64)
    slope = torch.linspace(sharpness, 1, count, dtype=torch.float64)
    ranks = normalized_ranks(importance, unit, totals_)
    soft = soft_mask(keep, ranks, unit, totals_, slope).split(totals)
    hard = hard_mask(keep, ranks, unit, torch.ones(count), totals_).split(totals)
    for i, (n, own) in enumerate(zip(totals, per_unit)):
        one, total = unit_vectors([n])
        r = normalized_ranks(torch.tensor(own, dtype=torch.float64), one, total)
        assert torch.equal(ranks.split(totals)[i], r)
        torch.testing.assert_close(soft[i], soft_mask(keep[i : i + 1], r, one, total, slope[i : i + 1]))
        assert torch.equal(hard[i], hard_mask(keep[i : i + 1], r, one, torch.ones(1), total))


def soft_by_hand(ratio, ranks, n, sharpness):
    return 1 / (1 + np.exp(-sharpness * n * (ratio - np.asarray(ranks))))


@given(st.lists(values, min_size=1, max_size=20), st.floats(0, 1), st.sampled_from([0.5, 1.0, 4.0]))
def test_soft_mask_equals_the_direct_formula(importance, ratio, sharpness):
    n = len(importance)
    unit, totals = unit_vectors([n])
    ranks = normalized_ranks(torch.tensor(importance, dtype=torch.float64), unit, totals)
    keep = torch.tensor([ratio], dtype=torch.float64)
    found = soft_mask(keep, ranks, unit, totals, torch.tensor([sharpness], dtype=torch.float64))
    np.testing.assert_allclose(found, soft_by_hand(ratio, all_pairs_ranks(importance), n, sharpness), rtol=1e-12)


@given(st.integers(32, 200), st.floats(0.3, 0.7), st.sampled_from([1.0, 4.0]))
def test_sum_of_the_soft_mask_is_the_count(n, ratio, sharpness):
    unit, totals = unit_vectors([n])
    ranks = normalized_ranks(torch.rand(n, dtype=torch.float64), unit, totals)
    keep = torch.tensor([ratio], dtype=torch.float64)
    found = soft_mask(keep, ranks, unit, totals, torch.tensor([sharpness], dtype=torch.float64)).sum()
    # The tails that the unit's ends cut off: below exp(-0.3 * 32) each; a sum of steps: 4e-2 at lambda 4.
    assert abs(float(found) - ratio * n) < 0.05


@given(st.lists(values, min_size=2, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_masks_are_monotone_in_the_keep_ratio(importance, a, b):
    low, high = sorted([a, b])
    n = len(importance)
    unit, totals = unit_vectors([n])
    ranks = normalized_ranks(torch.tensor(importance, dtype=torch.float64), unit, totals)
    one = torch.ones(1, dtype=torch.float64)
    soft = [soft_mask(one * ratio, ranks, unit, totals, one) for ratio in (low, high)]
    hard = [hard_mask(one * ratio, ranks, unit, one, totals) for ratio in (low, high)]
    assert bool((soft[0] <= soft[1]).all())
    assert bool((hard[0] <= hard[1]).all())


@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from([0, 1]))
def test_hard_mask_keeps_the_rounded_count(n, ratio, minimum):
    unit, totals = unit_vectors([n])
    ranks = normalized_ranks(torch.rand(n, dtype=torch.float64), unit, totals)
    keep = torch.tensor([ratio], dtype=torch.float64)
    kept = hard_mask(keep, ranks, unit, torch.tensor([minimum]), totals)
    # Within rounding of the product itself, the count is the nearest whole number.
    assert abs(int(kept.sum()) - max(minimum, ratio * n)) <= 0.5 + 1e-9
    best = torch.argsort(ranks)[: int(kept.sum())]
    assert bool(kept[best].all())


def test_hard_mask_by_hand():
    unit, totals = unit_vectors([4, 3])
    ranks = normalized_ranks(torch.tensor([4.0, 3.0, 2.0, 1.0, 5.0, 5.0, 5.0]), unit, totals)
    # 0.6 * 4 = 2.4 rounds to 2; 0 of 3 would be none, but the minimum is one: the first of equals.
    kept = hard_mask(torch.tensor([0.6, 0.0]), ranks, unit, torch.tensor([1, 1]), totals)
    assert kept.tolist() == [True, True, False, False, True, False, False]
    kept = hard_mask(torch.tensor([0.6, 0.0]), ranks, unit, torch.tensor([1, 0]), totals)
    assert kept.tolist() == [True, True, False, False, False, False, False]


def test_hard_mask_is_the_soft_mask_above_one_half():
    unit, totals = unit_vectors([16, 5])
    ranks = normalized_ranks(torch.rand(21), unit, totals)
    keep = torch.tensor([0.37, 0.71])
    soft = soft_mask(keep, ranks, unit, totals, torch.tensor([1.0, 4.0]))
    assert torch.equal(hard_mask(keep, ranks, unit, torch.zeros(2), totals), soft >= 0.5)


def test_gradient_of_the_soft_mask():
    unit, totals = unit_vectors([6, 3])
    ranks = normalized_ranks(torch.rand(9, dtype=torch.float64), unit, totals)
    slope = torch.tensor([1.0, 4.0], dtype=torch.float64)
    keep = torch.tensor([0.4, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: soft_mask(a, ranks, unit, totals, slope), keep)
    weights = torch.rand(9, dtype=torch.float64)
    (soft_mask(keep, ranks, unit, totals, slope) * weights).sum().backward()
    step = 1e-6
    for i in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[i] = step
        ends = [(soft_mask(keep.detach() + s, ranks, unit, totals, slope) * weights).sum() for s in (shift, -shift)]
        assert float(keep.grad[i]) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_ranks_carry_no_gradient():
    unit, totals = unit_vectors([3])
    assert not normalized_ranks(torch.rand(3, requires_grad=True), unit, totals).requires_grad


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_straight_through(hard):
    soft = torch.rand(len(hard), dtype=torch.float64, requires_grad=True)
    result = straight_through(torch.tensor(hard), soft)
    torch.testing.assert_close(result.detach(), torch.tensor(hard, dtype=torch.float64))
    (result * torch.arange(len(hard))).sum().backward()
    assert soft.grad.tolist() == list(range(len(hard)))


def test_one_sort_of_bits_is_the_order_of_numbers():
    """Ranks in float32 come from one sort of bits, in float64 from two of numbers."""
    generator = torch.Generator().manual_seed(0)
    totals = torch.tensor([500, 1, 300, 7])
    unit = torch.repeat_interleave(torch.arange(4), totals)
    importance = torch.randn(808, generator=generator) * 10 ** torch.randint(-30, 30, (808,), generator=generator)
    importance[::7] = importance[3]
    importance[5], importance[9], importance[12] = 0.0, -0.0, 0.0
    importance[100], importance[101] = torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max
    importance[102], importance[103] = 1e-45, -1e-45
    found = normalized_ranks(importance, unit, totals)
    assert torch.equal(found, normalized_ranks(importance.double(), unit, totals).float())
    assert found[5] < found[9] < found[12], 'zeros of both signs are ties, broken by index'
