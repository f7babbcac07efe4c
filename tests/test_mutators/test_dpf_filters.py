"""Pruning of whole filters: scores, feedback, budgets, and that what is exported is what was trained."""

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import batch, network, train
from torch import nn

from mmdms import build_search_space
from mmdms.errors import BudgetError, ConfigError
from mmdms.masks.channel_masks import without_masks
from mmdms.mutators import StructuredDPFMutator
from mmdms.mutators.reallocation import METHODS
from mmdms.slicing.slim import slim
from mmdms.verification.parity import check_parity

IMAGE = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def pruned(model=None, inputs=IMAGE, **kwargs):
    """A network and a mutator on it."""
    model = model or network()
    mutator = StructuredDPFMutator(**{'budget': dict(metric='flops', target=0.4), 'divisor': 1, **kwargs})
    mutator.prepare(model, build_search_space(model, inputs))
    return model, mutator


def test_with_all_masks_one_it_is_plain_training():
    plain = network()
    model, mutator = pruned(schedule=dict(begin=1.0, end=1.0, settle=1.0))
    train(plain, steps=20, optimizer=torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3))
    # Not to the end of the run, where the budget must hold.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    mutator.attach(optimizer)
    for step in range(20):
        mutator.set_progress(step / 20)
        inputs, labels = batch(step % 4)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert mutator.final_mask.all() and mutator.steps == 20
    for (name, expected), found in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(expected, found), name


class Pair(nn.Module):
    """Two channels in the middle, of two and one outputs' weights."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 3, bias=False)
        self.b = nn.Linear(3, 2, bias=False)
        self.a.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        self.b.weight.data = torch.tensor([[3.0, 1.0, 2.0], [4.0, 1.0, 2.0]])

    def forward(self, x):
        return self.b(self.a(x))


def pair(**kwargs):
    return pruned(Pair(), torch.tensor([[1.0, 2.0]]), budget=dict(metric='flops', target=0.7), **kwargs)


def test_scores_by_hand():
    """Root mean squares of the columns of ``b``: (9 + 16) / 2, 1 and 4."""
    _, mutator = pair()
    torch.testing.assert_close(mutator._scores(), torch.tensor([12.5**0.5, 1.0, 2.0], dtype=torch.float64))
    mutator.set_progress(0.6)
    assert mutator.final_mask.tolist() == [True, False, True]  # 2 of 3 are 0.67 of the FLOPs


def test_step_by_hand():
    """x = (1, 2) gives a = (1, 2, 3); the second is masked, and its weights in ``b`` learn all the same: dL/db = a."""
    model, mutator = pair()
    mutator.set_progress(0.6)
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    a, b = model.parameters()
    assert b.grad.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert a.grad.tolist() == [[7, 14], [0, 0], [4, 8]]  # column sums of b, without the second, times x
    model, mutator = pair(method='incremental')
    mutator.set_progress(0.6)
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    assert next(reversed(list(model.parameters()))).grad.tolist() == [[1, 0, 3], [1, 0, 3]]


@pytest.mark.parametrize(('method', 'last'), [('feedback', [True, True, False]), ('incremental', [True, False, True])])
def test_a_channel_comes_back_with_feedback_alone(method, last):
    model, mutator = pair(method=method, reallocation_interval=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    mutator.attach(optimizer)
    mutator.set_progress(0.6)
    assert mutator.final_mask.tolist() == [True, False, True]
    with torch.no_grad():
        model.b._parameters['weight'].add_(torch.tensor([[0.0, 2.0, 0.0]]))  # as steps of a loss would
    optimizer.step()
    mutator.set_progress(0.65)
    assert mutator.final_mask.tolist() == last


@pytest.mark.parametrize('scope', ['layer', 'global'])
def test_the_budget_of_the_moment_holds_at_every_step(scope):
    model, mutator = pruned(reallocation_interval=4, scope=scope, schedule=dict(end=0.5, settle=0.75))
    costs = []
    train(model, mutator, each=lambda step: costs.append(float(mutator.relative_cost(mutator.final_mask))))
    for step, cost in enumerate(costs):
        done = (step - step % 4) / 64
        target = 0.4 + 0.6 * (1 - min(done / 0.5, 1)) ** 3  # 1 - sparsity, cubic from 0 to 0.6
        assert target - 0.15 < cost <= target + 1e-9, step  # a channel of this network is up to 0.15 of the FLOPs
    assert len(set(costs[48:])) == 1 and bool(mutator.settled)


@pytest.mark.parametrize('scope', ['layer', 'global'])
@pytest.mark.parametrize('method', METHODS)
def test_exports_what_was_trained(method, scope):
    model, mutator = pruned(method=method, scope=scope)
    train(model, mutator, 40)
    structure, space = mutator.structure(), mutator.space
    mask = space.mask(structure)
    assert torch.equal(mask, mutator.final_mask) and not mask.all()
    assert 0.3 < space.cost('flops', mask) / space.cost('flops', torch.ones(space.num_elements)) <= 0.4
    model.eval()
    small = slim(without_masks(model), space, structure)
    inputs, _ = batch()
    torch.testing.assert_close(small(inputs), model(inputs))
    plain = without_masks(model)
    assert check_parity(plain, space, structure, (IMAGE,)).share <= 1e-12


def test_blocks_stay_whole():
    _, mutator = pruned(budget=dict(metric='flops', target=0.2))
    whole = [
        unit.kind for unit, pruned in zip(mutator.space.units, mutator.pruned.tolist(), strict=True) if not pruned
    ]
    assert whole == ['depth'] and '1 units stay whole' in mutator.describe()
    mutator.set_progress(1.0)
    depth = torch.tensor([unit.kind == 'depth' for unit in mutator.space.units])[mutator.unit]
    assert mutator.final_mask[depth].all() and not mutator.final_mask[~depth].all()


def test_out_of_reach():
    with pytest.raises(BudgetError, match=r'budget target 0.01 of flops is out of reach: .* ask for at least that'):
        pruned(budget=dict(metric='flops', target=0.01))


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(method='snap'), 'mutator.method must be one of'),
    (dict(scope='all'), 'mutator.scope must be one of'),
    (dict(budget=dict(target=0.5)), 'mutator.budget must be'),
    (dict(schedule=dict(end=0.9)), 'begin <= end <= settle'),
])  # fmt: skip
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        StructuredDPFMutator(**{'budget': dict(metric='flops', target=0.5), **settings})
