"""Masks follow the search however the network is called, and so do copies of the network."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import Residual, batch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from mmdms import DMSMutator, DPFMutator, StructuredDPFMutator, build_search_space, remove_masks, slim, without_masks
from mmdms.errors import ConfigError, StructureError


class Parts(nn.Module):
    """A backbone and a head, which may be called apart."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Residual(8), Residual(8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def encode(self, x):
        return self.norm(self.blocks(F.relu(self.stem(x))).mean((2, 3)))

    def forward(self, x):
        return self.head(self.encode(x))


class Wrapped(nn.Module):
    """A network inside of another, whose own forward does something else."""

    def __init__(self):
        super().__init__()
        self.net = Parts()

    def forward(self, x):
        return self.net(x) * 0.0


class Bare(nn.Module):
    """No module of it is ever called: its forward reads their weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)

    def encode(self, x):
        hidden = F.relu(F.linear(x.mean(1).flatten(1)[:, :6], self.first.weight, self.first.bias))
        return F.linear(hidden, self.second.weight, self.second.bias)

    def forward(self, x):
        return self.encode(x)


def checkpointed(reentrant):
    def call(m, x):
        x = F.relu(m.stem(x))
        for block in m.blocks:
            x = checkpoint(block, x, use_reentrant=reentrant)
        return m.head(m.norm(x.mean((2, 3))))

    return call


WAYS = {
    'method': (Parts, None, lambda m, x: m.head(m.encode(x))),
    'parts': (Parts, None, lambda m, x: m.head(m.norm(m.blocks(F.relu(m.stem(x))).mean((2, 3))))),
    'reentrant': (Parts, None, checkpointed(True)),
    'not reentrant': (Parts, None, checkpointed(False)),
    'forward=': (Wrapped, lambda m: m.net, lambda m, x: m.net(x)),
    'weights alone': (Bare, None, lambda m, x: m.encode(x)),
}


def prepared(kind=Parts, forward=None, **kwargs):
    torch.manual_seed(0)
    model = kind()
    space = build_search_space(model, torch.rand(1, 3, 6, 6), forward=forward)
    mutator = DMSMutator(**{'budget': dict(metric='flops', target=0.4), 'divisor': 1, **kwargs})
    mutator.prepare(model, space)
    return model, mutator


def searched(kind, forward, call, steps=16, each=lambda model, step: None, end=True):
    model, mutator = prepared(kind, forward)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mutator.attach(optimizer)
    for step in range(steps):
        mutator.set_progress(step / 16)
        x, y = batch(step % 4)
        optimizer.zero_grad()
        for part, label in zip(x.chunk(2), y.chunk(2), strict=True):  # gradients are accumulated
            (F.cross_entropy(call(model, part), label) / 2).backward()
        optimizer.step()
        each(model, step)
    if end:
        mutator.set_progress(1.0)
    return model, mutator


@pytest.fixture(scope='module')
def called():
    """Searches in which the network itself is called, by its class."""
    return {kind: searched(kind, None, lambda m, x: m(x)) for kind in (Parts, Bare)}


@pytest.mark.parametrize('way', WAYS)
def test_a_search_does_not_hang_on_how_the_network_is_called(called, way):
    """Bit for bit the search in which the network itself is called."""
    kind, forward, call = WAYS[way]
    model, mutator = searched(kind, forward, call)
    expected_model, expected = called[Parts if kind is Wrapped else kind]
    assert bool((expected.keep_ratio != 1).any()) and not bool(expected.final_mask.all())
    for name, value in expected.state_dict().items():
        if 'reentrant' in way and value.is_floating_point():  # sums over batches in another order
            torch.testing.assert_close(mutator.state_dict()[name], value)
        else:
            assert torch.equal(mutator.state_dict()[name], value), name
    with torch.no_grad():
        x, _ = batch(9)
        output = call(model.eval(), x)
        torch.testing.assert_close(output, expected_model.eval()(x))
        subnet = slim(model, mutator.space, mutator.structure())
        torch.testing.assert_close(output, call(subnet, x))
        assert not torch.allclose(output, call(without_masks(model), x))


def test_an_evaluation_between_forward_and_backward(called):
    """Activation checkpointing computes again under the masks of training, though the network was evaluated since."""

    def call(model, x):
        out = checkpointed(True)(model, x)
        model.eval()
        with torch.no_grad():
            model(x)
        model.train()
        return out

    _, mutator = searched(Parts, None, call)
    for name, value in called[Parts][1].state_dict().items():
        torch.testing.assert_close(mutator.state_dict()[name], value)


def test_weights_are_parameters_until_the_search_begins():
    """So that an optimizer may be built from attributes of modules after prepare()."""
    model, mutator = prepared()
    torch.optim.SGD([model.head.weight, model.blocks[0].conv1.weight], lr=0.1)
    mutator.set_progress(0.0)
    assert not isinstance(model.head.weight, nn.Parameter)


@pytest.mark.parametrize('when', ['before', 'in the middle', 'after'])
def test_an_averaged_model_is_its_slice(when):
    """Made when, it evaluates under the masks of the moment in the end."""
    averaged = []

    def average(model, step):
        if step == dict(before=0).get(when, 10) and when != 'after':
            averaged.append(AveragedModel(model, avg_fn=lambda a, b, n: 0.5 * a + 0.5 * b))
        if averaged:
            averaged[0].update_parameters(model)

    model, mutator = searched(Parts, None, lambda m, x: m(x), each=average)
    if when == 'after':
        average(model, 10), averaged.append(AveragedModel(model))
    copied = averaged[0].eval()
    x, _ = batch(9)
    with torch.no_grad():
        output = copied(x)
        subnet = slim(copied.module, mutator.space, mutator.structure())
        torch.testing.assert_close(output, subnet(x))
        torch.testing.assert_close(copied.module.head(copied.module.encode(x)), output)
        assert not torch.allclose(output, without_masks(copied)(x))
        if when != 'after':
            assert not torch.allclose(output, model.eval()(x))


def test_a_copy_teaches_the_search_nothing():
    model, mutator = searched(Parts, None, lambda m, x: m(x), steps=4, end=False)
    copied = copy.deepcopy(model).train()
    F.cross_entropy(copied(batch()[0]), batch()[1]).backward()
    assert mutator._gradient is None
    # Nor does a copy of a part.
    part = copy.deepcopy(model.blocks)
    x = torch.rand(2, 8, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(part(x), model.eval().blocks(x))


@pytest.mark.parametrize('order', [('model', 'mutator'), ('mutator', 'model')])
def test_a_copy_of_both_is_a_search_of_its_own(order):
    model, mutator = searched(Parts, None, lambda m, x: m(x), steps=4, end=False)
    pair = dict(model=model, mutator=mutator)
    twin = copy.deepcopy(nn.ModuleDict({name: pair[name] for name in order}))
    x, y = batch(9)
    F.cross_entropy(twin['model'](x), y).backward()
    assert twin['mutator']._gradient is not None and not twin['mutator'].attached
    twin['mutator'].keep_ratio.fill_(0.5)
    with torch.no_grad():
        assert not torch.allclose(twin['model'].eval()(x), model.eval()(x))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('steps', [6, 16])
@pytest.mark.parametrize('way', [lambda m: pickle.loads(pickle.dumps(m)), saved])
def test_a_pickled_network_is_what_it_was(way, steps):
    """In the middle of the search, whose masks hang on a graph, and at its end."""
    model, mutator = searched(Parts, None, lambda m, x: m(x), steps=steps, end=steps == 16)
    loaded = way(model)
    assert type(loaded.norm).__mro__[1:] == type(model.norm).__mro__[1:] and isinstance(loaded.head, nn.Linear)
    x, _ = batch(9)
    with torch.no_grad():
        for one, other in ((loaded.train(), model.train()), (loaded.eval(), model.eval())):
            assert torch.equal(one(x), other(x))
        subnet = way(slim(loaded, mutator.space, mutator.structure()))
        if steps == 16:
            torch.testing.assert_close(subnet(x), model(x))
    twin = way(mutator)
    assert torch.equal(twin.final_mask, mutator.final_mask) and not twin.attached


def test_pruned_weights_follow_too():
    torch.manual_seed(0)
    model = Parts()
    mutator = DPFMutator(0.5, schedule=dict(end=0.0))
    mutator.prepare(model, mutator.survey(model))
    before = AveragedModel(model).eval()
    mutator.set_progress(0.5)
    x, _ = batch()
    expected = without_masks(model).eval()
    for name, kept in mutator.kept_weights().items():
        expected.get_parameter(name).data.mul_(kept)
    with torch.no_grad():
        for one in (model, before.module, pickle.loads(pickle.dumps(model)), copy.deepcopy(before).module):
            torch.testing.assert_close(one.head(one.encode(x)), expected(x))
            torch.testing.assert_close(one(x), expected(x))


class Attending(nn.Module):
    """Modules of every kind that masks change: adapted ones, norms, blocks, layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.layers(self.stem(x)).mean(1))


def state_of(model):
    """All that masks could change, but for values of weights."""
    return [
        (name, type(module), dict(module.__dict__, _parameters=None, _modules=list(module._modules)))
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize('kind', [DMSMutator, StructuredDPFMutator, DPFMutator])
def test_remove(kind):
    torch.manual_seed(0)
    model, x = Attending().eval(), torch.rand(2, 3, 6)
    model.register_forward_hook(lambda *_: None)
    space = build_search_space(model, x[:1])
    before, keys, parameters = state_of(model), list(model.state_dict()), list(model.parameters())
    if kind is DPFMutator:
        mutator = DPFMutator(0.5)
        space = mutator.survey(model)
    else:
        mutator = kind(budget=dict(metric='flops', target=0.6), divisor=1)
    mutator.prepare(model, space)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mutator.attach(optimizer)
    for step in range(8):
        model.train()
        mutator.set_progress(step / 8)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    mutator.set_progress(1.0)
    assert state_of(model.eval()) != before
    masked = model(x)
    expected = Attending().eval()
    expected.load_state_dict(model.state_dict())
    mutator.remove()
    assert state_of(model) == before and list(model.state_dict()) == keys
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(x), expected(x))
    assert not torch.allclose(model(x), masked)
    if kind is not DPFMutator:  # what was found is kept
        torch.testing.assert_close(slim(model, space, mutator.structure())(x), masked)
    optimizer.step()  # which the mutator follows no more
    assert not mutator.attached
    # And the network may be searched again, by the same mutator or another.
    mutator.prepare(model, mutator.survey(model) if kind is DPFMutator else build_search_space(model, x[:1]))
    assert bool(mutator.settled) is False


def test_a_masked_network_is_refused_by_name():
    model, mutator = prepared()
    space = build_search_space(model, torch.rand(1, 3, 6, 6))  # of the network without its masks
    assert space.units == mutator.space.units and space.offsets == mutator.space.offsets
    for other in (DMSMutator(budget=dict(metric='flops', target=0.5)), mutator):
        with pytest.raises(ConfigError, match=r'this Parts carries the masks of another search .* remove\(\)'):
            other.prepare(model, space)
    weights = DPFMutator(0.5)
    with pytest.raises(ConfigError, match='carries the masks'):
        weights.prepare(model, weights.survey(model))
    with pytest.raises(ConfigError, match=r'holds the masks of another network.*remove\(\) first'):
        mutator.prepare(Parts(), space)
    copied = copy.deepcopy(model)
    remove_masks(copied)
    DMSMutator(budget=dict(metric='flops', target=0.5)).prepare(copied, space)


def test_a_space_of_another_network():
    model = Wrapped()
    space = build_search_space(model, torch.rand(1, 3, 6, 6), forward=lambda m: m.net)
    mutator = DMSMutator(budget=dict(metric='flops', target=0.5))
    message = r"of another network, as this Parts has no tensor 'net\..*; give the network that build_search_space was"
    with pytest.raises(StructureError, match=message):
        mutator.prepare(model.net, space)
    with pytest.raises(StructureError, match=message):
        slim(model.net, space, space.structure(torch.ones(space.num_elements)))
    model.net.head = nn.Linear(9, 5)
    with pytest.raises(StructureError, match=r"'net.head.weight' of shape \(5, 9\), of which dimension 1 should be 8"):
        mutator.prepare(model, space)


@pytest.mark.parametrize('call', ['attach', 'set_progress', 'remove'])
@pytest.mark.parametrize('mutator', [DMSMutator(budget=dict(metric='flops', target=0.5)), DPFMutator(0.5)])
def test_before_prepare(mutator, call):
    argument = dict(attach=[torch.optim.SGD([nn.Parameter(torch.ones(1))])], set_progress=[0.5]).get(call, [])
    with pytest.raises(ConfigError, match=rf'call \w+Mutator.prepare\(model, space\) before {call}\(\)'):
        getattr(mutator, call)(*argument)
