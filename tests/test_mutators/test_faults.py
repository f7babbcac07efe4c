"""What a search meets in numbers: each has a defined outcome."""

import logging

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import Residual, assert_same, batch, searched, state_of
from mmengine.logging import MMLogger
from torch import nn

from mmdms.errors import SearchWarning


def optimizer_of(model, mutator, lr=None):
    """Without a rate the weights are in nobody's hands: they stay, also where their gradient is NaN."""
    weights = [nn.Parameter(torch.zeros(()))] if lr is None else model.parameters()
    optimizer = torch.optim.SGD(weights, lr=lr or 0.1)
    mutator.attach(optimizer)
    return optimizer


def step(model, mutator, optimizer, index, factor=1.0):
    mutator.set_progress(index / 20)
    optimizer.zero_grad()
    x, y = batch(index)
    (F.cross_entropy(model(x), y) * factor).backward()
    optimizer.step()


@pytest.fixture
def said(monkeypatch):
    """Warnings of mmengine's current logger."""
    lines = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handle', lambda record: lines.append(record.getMessage()))
    monkeypatch.setattr(logger, 'level', logging.WARNING)
    return lines


@pytest.mark.parametrize('factor', [float('nan'), float('inf'), -float('inf'), 1e30])
def test_a_loss_that_is_not_finite(factor, said):
    """Of 1e30 the gradient is finite, but its square, the importance, is not."""
    model, mutator = searched()
    optimizer = optimizer_of(model, mutator)
    for index in range(3):
        step(model, mutator, optimizer, index)
    before = state_of(mutator)
    step(model, mutator, optimizer, 3, factor)
    assert_same(before, mutator)
    assert len(said) == 1
    assert 'the gradient of the masks is not finite at progress 0.1500: structure and importance stay' in said[0]
    assert 'The weights are left to the optimizer wrapper: AmpOptimWrapper skips such a step' in said[0]
    step(model, mutator, optimizer, 4)
    assert not torch.equal(before['importance'], mutator.importance)
    assert all(bool(torch.isfinite(value).all()) for value in mutator.state_dict().values())


def test_what_becomes_of_the_weights():
    """As the warning says: a plain optimizer takes the step."""
    model, mutator = searched()
    optimizer = optimizer_of(model, mutator, lr=0.1)
    step(model, mutator, optimizer, 0, float('nan'))
    assert bool(model[0].weight.isnan().any()) and bool(torch.isfinite(mutator.keep_ratio).all())


def test_a_run_of_faults_does_not_fill_the_log(said):
    model, mutator = searched()
    optimizer = optimizer_of(model, mutator)
    for _ in range(20):
        step(model, mutator, optimizer, 1, float('nan'))
    assert [', now for 16 steps in a row' in line for line in said] == [False] * 4 + [True]  # 1, 2, 4, 8, 16
    step(model, mutator, optimizer, 1)
    step(model, mutator, optimizer, 1, float('nan'))
    assert len(said) == 6 and 'in a row' not in said[-1]


def test_a_gradient_of_zero():
    """Importance fades as the average says, keep ratios go on with their momentum and stay on the budget."""
    model, mutator = searched()
    optimizer = optimizer_of(model, mutator)
    for index in range(12):
        step(model, mutator, optimizer, index)
    importance, velocity = mutator.importance.clone(), mutator.velocity.clone()
    step(model, mutator, optimizer, 12, 0.0)
    torch.testing.assert_close(mutator.importance, 0.99 * importance)
    torch.testing.assert_close(mutator.velocity, 0.9 * velocity)
    assert float(mutator.losses()['soft_cost']) == pytest.approx(0.4, rel=1e-3)


def test_zero_from_the_first_step_on():
    """All importances are equal, no direction is better: units shrink by their share of the cost, ranks by index."""
    model, mutator = searched()
    optimizer = optimizer_of(model, mutator)
    for index in range(4):  # a head that starts at 0, or a warm-up from 0, may begin so
        step(model, mutator, optimizer, index, 0.0)
    with pytest.warns(SearchWarning, match='the gradient of every mask is 0, for 5 steps now'):
        step(model, mutator, optimizer, 4, 0.0)
    for index in range(5, 16):
        step(model, mutator, optimizer, index, 0.0)
    assert bool(mutator.settled) and not bool(mutator.importance.any())
    for start, unit in zip(mutator.space.offsets, mutator.space.units, strict=True):
        kept = mutator.final_mask[start : start + unit.total]
        assert torch.equal(kept, kept.sort(descending=True).values), unit.name  # the first of them stay
    assert 0.3 <= float(mutator.relative_cost(mutator.final_mask)) <= 0.4


class Branches(nn.Module):
    """A block of one hidden channel, and a branch that only the tracer (a batch of one) goes through."""

    def __init__(self):
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.back = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(Residual(8))
        self.aside, self.home = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.blocks(F.relu(self.back(F.relu(self.one(F.relu(self.stem(x)))))))
        if len(x) == 1:
            x = x + self.home(F.relu(self.aside(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def branches():
    torch.manual_seed(0)
    model, mutator = searched(Branches())
    return model, mutator, {unit.name: index for index, unit in enumerate(mutator.space.units)}


def test_units_of_one_element(branches):
    """A single channel is no unit, as it must stay; the only block of a run may go."""
    model, mutator, index = branches
    totals = {unit.name: (unit.kind, unit.total) for unit in mutator.space.units}
    assert 'one' not in totals
    assert ('one', 'is a single channel, and one must stay') in [(f.module, f.reason) for f in mutator.space.frozen]
    (depth,) = [name for name, (kind, total) in totals.items() if kind == 'depth' and total == 1]
    optimizer = optimizer_of(model, mutator)
    for step_index in range(10):
        step(model, mutator, optimizer, step_index)
        kept = mutator.space.counts(mutator.hard_mask().double())
        assert kept[index[depth]] in (0, 1)
        assert bool(torch.isfinite(mutator.keep_ratio).all())
    mutator.keep_ratio.zero_()
    kept = mutator.space.counts(mutator.hard_mask().double())
    assert kept[index[depth]] == 0
    mutator.structure()


def test_a_unit_that_is_never_used(branches):
    """It has no importance and no gradient: only the budget moves it, and what comes out is valid."""
    model, mutator, index = branches
    unused = mutator.unit == index['aside']
    optimizer = optimizer_of(model, mutator)
    for step_index in range(12):
        step(model, mutator, optimizer, step_index)
        assert not bool(mutator.importance[unused].any()) and float(mutator.velocity[index['aside']]) == 0
    assert bool(mutator.importance[~unused].any())
    assert 0 < float(mutator.keep_ratio[index['aside']]) <= 1
    mutator.set_progress(0.9)
    assert 0 < float(mutator.relative_cost(mutator.final_mask)) <= 0.4


def test_no_unit_is_used(branches):
    """A step that says nothing of the masks leaves them alone, and is warned of."""
    model, mutator, _ = branches
    optimizer = optimizer_of(model, mutator)
    step(model, mutator, optimizer, 1)
    before = state_of(mutator)
    optimizer.zero_grad()
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    with pytest.warns(SearchWarning, match='moved weights only, not the structure: no gradient reached the masks'):
        optimizer.step()
    assert_same(before, mutator)
