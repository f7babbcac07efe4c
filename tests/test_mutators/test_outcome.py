"""A structure says how near it came to its budget, and why not nearer."""

import pytest
import torch
from helpers.drawn_spaces import table_of

from mmdms.mutators.budgets.outcome import outcome_of
from mmdms.space.structure import UnitInfo

# 1 for each of 100 channels, 40 for one block and 60 for the other: 200.
UNITS = [UnitInfo('wide', 'channels', 100), UnitInfo('stage', 'depth', 2)]
SPACE = table_of(UNITS, (1, 0, None), (40, None, 100), (60, None, 101))


def outcome(kept, blocks, target, step=1):
    mask = torch.cat([torch.arange(100) < kept, torch.arange(2) < blocks])
    return outcome_of(SPACE, 'flops', target, mask, torch.tensor([step, 1]))


def test_within_one_percent():
    found = outcome(60, 1, 0.505)
    assert found.within and found.reason == '' and found.achieved == 0.5
    assert str(found) == 'flops at 0.5000 of the supernet, target 0.505: within 1% below it'
    assert outcome(60, 1, 0.5).within and outcome(100, 2, 1).within
    assert not outcome(60, 1, 0.5051).within


@pytest.mark.parametrize(
    ('kept', 'blocks', 'target', 'step', 'reason'),
    [
        (96, 1, 0.699, 8, 'the divisor is too coarse'),
        (100, 1, 0.9, 1, "the search space is too coarse (its cheapest step up, 1 block of 'stage'"),
        (1, 0, 0.0099, 1, 'every unit is at its minimum'),
        (50, 0, 0.3, 1, 'more would fit'),
    ],
)  # fmt: skip
def test_why_none_is_nearer(kept, blocks, target, step, reason):
    found = outcome(kept, blocks, target, step)
    assert not found.within and reason in found.reason
    assert 'below it, the nearest structure that was found; ' in str(found)


def test_above_its_budget():
    found = outcome(100, 2, 0.9)
    assert not found.within and 'ABOVE it' in str(found) and 'search again' in found.reason
