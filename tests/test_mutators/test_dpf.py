"""Pruning of single weights: what a step is, when masks change, and what they keep."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import batch, network, train
from mmengine.logging import MMLogger
from torch import nn

from mmdms.errors import ConfigError
from mmdms.mutators import DPFMutator
from mmdms.mutators.reallocation import METHODS


def pruned(model=None, sparsity=0.5, **kwargs):
    """A network and a mutator on it."""
    model = model or network()
    mutator = DPFMutator(sparsity, **kwargs)
    mutator.prepare(model, mutator.survey(model))
    return model, mutator


@pytest.mark.parametrize('optimizer', [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    lambda p: torch.optim.AdamW(p, lr=1e-2),
])  # fmt: skip
@pytest.mark.parametrize('method', ['feedback', 'incremental', 'one-shot'])
def test_with_all_masks_one_it_is_plain_training(method, optimizer):
    plain = network()
    never = dict(begin=1.0) if method == 'one-shot' else dict(begin=1.0, end=1.0)
    model, mutator = pruned(method=method, schedule=never)
    train(plain, steps=20, optimizer=optimizer(plain.parameters()))
    seen = []
    train(model, mutator, 20, optimizer(model.parameters()), lambda step: seen.append(int(mutator.kept.sum())))
    assert set(seen) == {len(mutator.kept)}
    for (name, expected), found in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(expected, found), name


class Line(nn.Module):
    """``w . x``."""

    def __init__(self, *weight):
        super().__init__()
        self.layer = nn.Linear(len(weight), 1, bias=False)
        self.layer.weight.data = torch.tensor([weight])

    def forward(self, x):
        return self.layer(x)


def test_update_by_hand():
    """Loss (y - 1)^2 / 2 at x = (1, 2); the mask leaves w = (3, 0), so y = 3 and dL/dw = (2, 4), for both weights."""
    model, mutator = pruned(Line(3.0, 1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.1)
    mutator.kept[1] = False
    for _ in range(2):
        y = model(torch.tensor([[1.0, 2.0]]))
        optimizer.zero_grad()
        (0.5 * (y - 1) ** 2).sum().backward()
        optimizer.step()
    # First: momentum (2 + 0.3, 4 + 0.1) and w = (2.77, 0.59). Then y = 2.77, dL/dw = (1.77, 3.54),
    # momentum (1.15 + 1.77 + 0.277, 2.05 + 3.54 + 0.059) and w = (2.77 - 0.3197, 0.59 - 0.5649).
    torch.testing.assert_close(next(model.parameters()).data, torch.tensor([[2.4503, 0.0251]]))
    assert model(torch.tensor([[0.0, 1.0]])) == 0


def come_back(method):
    """Weights (1, 0.9), one of which goes; the loss wants the second large. Is the mask as it was, after two steps?"""
    model, mutator = pruned(Line(1.0, 0.9), method=method, reallocation_interval=2, schedule=dict(end=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mutator.attach(optimizer)
    kept = []
    for _ in range(3):
        mutator.set_progress(0.5)
        kept.append(mutator.kept.tolist())
        optimizer.zero_grad()
        (-model(torch.tensor([[0.0, 1.0]]))).sum().backward()
        optimizer.step()
    return kept


def test_a_weight_comes_back():
    assert come_back('feedback') == [[True, False], [True, False], [False, True]]


def test_a_weight_does_not_come_back_without_feedback():
    assert come_back('incremental') == [[True, False]] * 3


def test_what_is_gone_stays_gone_in_training():
    model, mutator = pruned(sparsity=0.8, method='incremental', reallocation_interval=4)
    masks = []
    train(model, mutator, each=lambda step: masks.append(mutator.kept.clone()))
    assert all(bool((after <= before).all()) for before, after in zip(masks, masks[1:], strict=False))
    model, mutator = pruned(sparsity=0.8, reallocation_interval=4)
    masks = []
    train(model, mutator, each=lambda step: masks.append(mutator.kept.clone()))
    assert any(bool((after > before).any()) for before, after in zip(masks, masks[1:], strict=False))


@pytest.mark.parametrize('scope', ['global', 'layer'])
def test_schedule_at_every_step(scope):
    """Of the share that is done when masks are found, every 8 steps: 0.9 - 0.9 (1 - (t - 0.25) / 0.5)^3."""
    model, mutator = pruned(sparsity=0.9, reallocation_interval=8, scope=scope, schedule=dict(begin=0.25, end=0.75))
    found = []
    train(model, mutator, 64, each=lambda step: found.append((1 - mutator.kept.float().mean()).item()))
    for step, sparsity in enumerate(found):
        done = (step - step % 8) / 64
        expected = 0 if done < 0.25 else 0.9 - 0.9 * (1 - (min(done, 0.75) - 0.25) / 0.5) ** 3
        layers = len(mutator.sizes) if scope == 'layer' else 1
        assert sparsity == pytest.approx(expected, abs=0.5 * layers / len(mutator.kept) + 1e-6), step


@pytest.mark.parametrize('scope', ['global', 'layer'])
@pytest.mark.parametrize('method', METHODS)
def test_final_sparsity(method, scope):
    model, mutator = pruned(sparsity=0.83, method=method, scope=scope)
    train(model, mutator, 40)
    assert bool(mutator.settled)
    weights = dict(model.named_parameters())
    read = {name: module.weight for name, module in model.named_modules() if f'{name}.weight' in mutator.shapes}
    zeros = {name: int((weight == 0).sum()) for name, weight in read.items()}
    assert sum(zeros.values()) / sum(mutator.sizes) == pytest.approx(0.83, abs=1e-3)
    if scope == 'layer':
        for name, number in zeros.items():
            assert number == round(0.83 * weights[f'{name}.weight'].numel())
    elif method != 'snip':  # the largest of the weights from which the mask was found
        assert len({number / weights[f'{name}.weight'].numel() for name, number in zeros.items()}) > 1


def test_snip_by_hand():
    """w = (2, 1, 4), dL/dw = (1, 3, 0.25): |w dL/dw| = (2, 3, 1), so the second stays of three; no weight moves."""
    model, mutator = pruned(Line(2.0, 1.0, 4.0), sparsity=0.67, method='snip')
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    mutator.attach(optimizer)
    kept = []
    for step in range(2):
        mutator.set_progress(step / 2)
        optimizer.zero_grad()
        model(torch.tensor([[1.0, 3.0, 0.25]])).sum().backward()
        optimizer.step()
        kept.append((mutator.kept.tolist(), model.layer.weight.detach().clone()))
    assert kept[0][0] == kept[1][0] == [False, True, False] and bool(mutator.settled)
    assert kept[0][1].tolist() == [[0, 1.0, 0]] and mutator.masks._read['layer.weight'].kept is not None
    assert dict(model.named_parameters())['layer.weight'].data[0].tolist() != [2.0, 1.0, 4.0]


def test_one_shot_prunes_once():
    model, mutator = pruned(sparsity=0.9, method='one-shot', schedule=dict(begin=0.25))
    masks = []
    train(model, mutator, 40, each=lambda step: masks.append(mutator.kept.clone()))
    assert all(mask.all() for mask in masks[:10])
    assert all(torch.equal(mask, masks[10]) for mask in masks[10:]) and not masks[10].all()


class Layers(nn.Module):
    """One of each kind."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.stem = nn.Conv1d(4, 8, 1)
        self.norm = nn.LayerNorm([8, 3])
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 2)
        self.still = nn.Linear(2, 2).requires_grad_(False)


def test_which_weights():
    model = Layers()
    _, mutator = pruned(model)
    assert list(mutator.shapes) == [
        'stem.weight', 'attention.in_proj_weight', 'attention.out_proj.weight', 'head.weight',
    ]  # fmt: skip
    assert mutator.left == {
        'norm or embedding': 20 + 48, 'parameter of no layer': 12,
        'bias, norm or scale': 8 + 24 + 8 + 2, 'frozen': 4 + 2,
    }  # fmt: skip
    assert '4 layers with 304 weights to prune to a sparsity of 0.5' in mutator.describe()
    assert 'frozen 6' in mutator.describe()


def test_first_and_last_stay():
    _, mutator = pruned(Layers(), keep_dense=['first', 'last'])
    assert list(mutator.shapes) == ['attention.in_proj_weight', 'attention.out_proj.weight']
    assert mutator.left['first layer'] == 32 and mutator.left['last layer'] == 16


def test_patterns():
    mutator = DPFMutator(0.5)
    found = mutator.survey(Layers(), None, exclude=['attention'])
    assert list(found) == ['stem.weight', 'head.weight'] and found.left['excluded by a pattern'] == 192 + 64
    with pytest.raises(ConfigError, match="exclude pattern 'nothing' matches no"):
        mutator.survey(Layers(), None, exclude=['nothing'])


def test_nothing_to_prune():
    with pytest.raises(ConfigError, match='nothing to prune.*bias, norm or scale: 8'):
        DPFMutator(0.5).survey(nn.BatchNorm2d(4))


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(sparsity=0), r'mutator.sparsity must be a share of the weights in \(0, 1\), but it is 0'),
    (dict(sparsity=1.0), 'mutator.sparsity'),
    (dict(sparsity=True), 'mutator.sparsity'),
    (dict(method='snap'), "mutator.method must be one of .*, but it is 'snap'"),
    (dict(scope='all'), "mutator.scope must be one of .*, but it is 'all'"),
    (dict(reallocation_interval=0), 'mutator.reallocation_interval must be a number of steps from 1, but it is 0'),
    (dict(check_ranks_every=-1), 'mutator.check_ranks_every'),
    (dict(method='snip', schedule=dict(end=0.5)), "schedule.end is no setting of method='snip': it takes none"),
    (dict(method='one-shot', schedule=dict(end=0.5)), 'it takes begin'),
    (dict(schedule=dict(begin=0.9)), 'begin <= end <= settle'),
])  # fmt: skip
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        DPFMutator(**{'sparsity': 0.5, **settings})


@pytest.mark.parametrize('ends', ['first', ['middle']])
def test_bad_ends(ends):
    with pytest.raises(ConfigError, match='mutator.keep_dense must be a list out of'):
        pruned(keep_dense=ends)


def test_a_schedule_that_ends_between_two_masks_is_met():
    model, mutator = pruned(sparsity=0.9, reallocation_interval=16, schedule=dict(end=0.5))
    found = []
    train(model, mutator, 12, each=lambda step: found.append(float(mutator.kept.float().mean())))
    assert found == pytest.approx([1.0] * 6 + [0.1] * 6)


def test_batches_of_one_step_share_a_mask():
    model, mutator = pruned(sparsity=0.5, schedule=dict(end=0.0))
    mutator.set_progress(0.5)
    before = mutator.kept.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_().add_(1.0)  # other weights are largest now
    mutator.set_progress(0.5)
    assert torch.equal(before, mutator.kept)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    mutator.attach(optimizer)
    for _ in range(mutator.reallocation_interval):
        optimizer.step()
    mutator.set_progress(0.5)
    assert not torch.equal(before, mutator.kept)


def test_a_step_that_overflowed_does_not_count():
    model, mutator = pruned()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    mutator.attach(optimizer)
    mutator.set_progress(0.0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert mutator.steps == 0
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert mutator.steps == 1


@pytest.fixture
def said(monkeypatch):
    """What is logged at warning level."""
    found = []
    logger = MMLogger.get_instance('dpf', log_level=logging.WARNING)
    monkeypatch.setattr(MMLogger, 'get_current_instance', classmethod(lambda cls: logger))
    monkeypatch.setattr(logger, 'handle', lambda record: found.append(record.getMessage()))
    return found


def test_weights_that_are_not_finite_leave_masks_alone(said):
    model, mutator = pruned(schedule=dict(end=0.0))
    dict(model.named_parameters())['0.weight'].data[0, 0, 0, 0] = float('nan')
    mutator.set_progress(0.5)
    assert mutator.kept.all() and 'not finite' in said[0] and mutator.reached == 0


def test_evaluation_follows_weights_and_masks():
    model, mutator = pruned(Line(3.0, 1.0))
    model.eval()
    with torch.no_grad():
        ones = torch.ones(1, 2)
        assert model(ones) == 4
        mutator.kept[1] = False
        assert model(ones) == 3
        model.layer._parameters['weight'].add_(1)
        assert model(ones) == 4
        mutator.masks.remove()
        assert model(ones) == 6


def test_state_goes_on():
    """A mutator that loads another's state finds the same masks at the same steps."""
    model, mutator = pruned(sparsity=0.9, reallocation_interval=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    half = {}

    def note(step):
        if step == 9:
            half.update(copy.deepcopy(dict(model=model.state_dict(), mutator=mutator.state_dict())))

    train(model, mutator, 40, optimizer, note)
    other, again = pruned(sparsity=0.9, reallocation_interval=3)
    other.load_state_dict(half['model']), again.load_state_dict(half['mutator'])
    assert again._steps == 10
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    again.attach(optimizer)
    for step in range(10, 40):
        again.set_progress(step / 40)
        inputs, labels = batch(step % 4)
        optimizer.zero_grad()
        F.cross_entropy(other(inputs), labels).backward()
        optimizer.step()
    assert torch.equal(again.kept, mutator.kept)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_copy_that_averages_weights_shares_the_masks():
    model, mutator = pruned(sparsity=0.9, schedule=dict(end=0.0))
    both = nn.ModuleDict(dict(model=model, mutator=mutator))
    averaged = copy.deepcopy(both)
    mutator.share_state(averaged['mutator'])
    inputs, _ = batch()
    before = averaged['model'](inputs)
    mutator.set_progress(0.5)
    assert not torch.equal(before, averaged['model'](inputs))
    torch.testing.assert_close(averaged['model'](inputs), model(inputs))


def test_log():
    _, mutator = pruned(sparsity=0.8, schedule=dict(end=0.5))
    mutator.set_progress(0.25)
    found = {name: round(float(value), 6) for name, value in mutator.losses().items()}
    assert found == dict(sparsity=0.7, target_sparsity=0.7)  # 0.8 - 0.8 / 8
    mutator.set_progress(1.0)
    assert mutator.describe_structure() == 'masks are final: sparsity 0.8000 of the prunable weights, target 0.8'


def train_in_low_precision(dtype, accumulated, mutator=None, steps=12):
    """Autocast with a loss scale, batches accumulated: the weights that come out."""
    model = network()
    if mutator is not None:
        mutator.prepare(model, mutator.survey(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    if mutator is not None:
        mutator.attach(optimizer)
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16)
    for step in range(steps):
        if mutator is not None:
            mutator.set_progress(step / steps)
        inputs, labels = batch(step % 4)
        with torch.autocast('cpu', dtype):
            loss = F.cross_entropy(model(inputs), labels) / accumulated
        scaler.scale(loss).backward()
        if (step + 1) % accumulated == 0:
            scaler.step(optimizer), scaler.update(), optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize('accumulated', [1, 3])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision_is_that_of_plain_training(dtype, accumulated):
    expected = train_in_low_precision(dtype, accumulated)
    mutator = DPFMutator(0.5, schedule=dict(begin=1.0, end=1.0))
    found = train_in_low_precision(dtype, accumulated, mutator)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert mutator.steps == 12 // accumulated
