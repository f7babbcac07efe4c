"""Loops of one's own, of any length: the structure costs the target within 1%, or says why not."""

import logging
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdms import DMSMutator, StructuredDPFMutator, build_search_space, slim


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.b(F.relu(self.a(x))) / 4


def network(width=16):
    torch.manual_seed(0)
    stages = [nn.Sequential(*[Block(w) for _ in range(3)]) for w in (width, 2 * width)]
    return nn.Sequential(
        nn.Conv2d(1, width, 1), stages[0], nn.Conv2d(width, 2 * width, 1), stages[1], nn.Flatten(),
        nn.Linear(2 * width * 16, 5),
    )  # fmt: skip


@cache
def space_of(width):
    return build_search_space(network(width), torch.rand(1, 1, 4, 4), verify=False)


def search(steps, target, mutator_type=DMSMutator, width=16, end=1.0, **kwargs):
    """As in docs/plain_pytorch.md, up to a progress of ``end``."""
    model, space = network(width), space_of(width)
    mutator = mutator_type(budget=dict(metric='flops', target=target), **kwargs)
    mutator.prepare(model, space)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    mutator.attach(optimizer)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        mutator.set_progress(end * step / steps)
        x = torch.rand(8, 1, 4, 4, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), (x.mean((1, 2, 3)) * 10).long().clamp(0, 4)).backward()
        optimizer.step()
    if end == 1:
        mutator.set_progress(1.0)
    return model, mutator


def share(mutator):
    return mutator.relative_cost(mutator.space.mask(mutator.structure())).item()


@pytest.mark.parametrize('structure_lr', [1.5, 20.0])  # as large a step as a short run may take
@pytest.mark.parametrize('target', [0.85, 0.5, 0.3])
@pytest.mark.parametrize('steps', [1, 12, 40])
def test_the_target_is_met_within_one_percent(steps, target, structure_lr):
    _, mutator = search(steps, target, structure_lr=structure_lr)
    assert 0.99 * target <= share(mutator) <= target
    structure = mutator.structure()
    assert structure.budget.within and 'within 1% below it' in str(structure)
    assert structure.budget.achieved == share(mutator)
    assert mutator.describe_structure() == f'structure fixed: {structure.budget}'


def test_before_anything_is_fixed():
    _, mutator = search(2, 0.5, end=0.2)
    assert not mutator.settled and mutator.structure().budget.within


@pytest.mark.parametrize('gone', [(0.0, 0.0), (0.3, 0.0)])
def test_blocks_that_all_went_return_before_widths_are_refined(gone):
    """And with them what the search asks for: the soft cost is on the target again."""
    model, mutator = search(4, 0.85, end=0.49)
    mutator.keep_ratio.fill_(1.0)
    mutator.keep_ratio[mutator.is_depth] = torch.tensor(gone)
    importance = mutator.importance.clone()
    mutator.set_progress(0.5)
    x = torch.rand(8, 1, 4, 4)
    F.cross_entropy(model.train()(x), torch.arange(8) % 5).backward()
    mutator.update()
    blocks = (mutator.keep_ratio * mutator.totals)[mutator.is_depth].round()
    assert blocks.sum() > 0 and float(mutator.losses()['soft_cost']) == pytest.approx(0.85, rel=0.02)
    # Nothing is learnt of blocks any more, and the ones that are there stay.
    assert torch.equal(mutator.importance[mutator.is_depth[mutator.unit]], importance[mutator.is_depth[mutator.unit]])
    mutator.set_progress(0.6)
    F.cross_entropy(model(x), torch.arange(8) % 5).backward()
    mutator.update()
    assert torch.equal((mutator.keep_ratio * mutator.totals)[mutator.is_depth].round(), blocks)


@pytest.fixture
def log(monkeypatch):
    """What is logged as a warning."""
    found = []
    for module in ('base', 'dms'):
        monkeypatch.setattr(logging.getLogger(f'mmdms.mutators.{module}'), 'warning', lambda text: found.append(text))
    return found


def test_a_divisor_that_is_too_coarse_is_said(log):
    _, mutator = search(4, 0.7, divisor=32, width=32)
    assert share(mutator) < 0.99 * 0.7
    (warning,) = [text for text in log if 'budget' in text]
    assert warning.startswith('the budget is not met within 1%: flops at ') and 'the divisor is too coarse' in warning
    structure = mutator.structure()
    assert not structure.budget.within and str(structure.budget) in warning
    assert len(log) == 1  # the structure is fixed: it was said


def test_a_budget_that_is_met_is_not_warned_of(log):
    search(4, 0.5)
    assert not [text for text in log if 'budget' in text]


def test_blocks_that_returned_are_those_of_the_slice():
    model, mutator = search(4, 0.8, structure_lr=20.0)
    structure = mutator.structure()
    subnet = slim(model, mutator.space, structure)
    x = torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(subnet.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('target', [0.85, 0.5])
def test_pruning_of_channels_keeps_every_block(target):
    _, mutator = search(12, target, StructuredDPFMutator, reallocation_interval=2)
    structure = mutator.structure()
    assert 0.99 * target <= share(mutator) <= target and structure.budget.within
    assert all(row['kept'] == row['total'] for row in structure.report() if row['kind'] == 'depth')
