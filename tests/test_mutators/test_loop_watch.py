"""Loops in which the search does not move: each is warned of at once, and none ends in a structure by chance."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import batch, network, searched

from mmdms import DPFMutator
from mmdms.errors import SearchWarning, StructureError


def loop(steps=20, attach=True, progress=lambda step: step / 20, prepare=lambda model, optimizer: None, train=None):
    """A loop of a user; returns the mutator and, of every step, what was warned of in it."""
    model, mutator = searched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if attach:
        mutator.attach(optimizer)
    prepare(model, optimizer)
    trained = (train or (lambda model: model))(model)
    said = []
    for step in range(steps):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            if progress(step) is not None:
                mutator.set_progress(progress(step))
            x, y = batch(step % 4)
            loss = F.cross_entropy(trained(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert all(issubclass(warning.category, SearchWarning) for warning in caught)
        said.append([str(warning.message) for warning in caught])
    return mutator, said


def only(said, step):
    """The one warning of a loop, which came in this step."""
    assert [len(lines) for lines in said] == [int(index == step) for index in range(len(said))], said
    return said[step][0]


def test_a_loop_as_it_should_be():
    mutator, said = loop()
    assert not any(said) and bool(mutator.settled)


def test_evaluation_mode():
    said = []
    with pytest.raises(StructureError, match=r'in 15 steps no gradient reached the masks \(the network is in evaluat'):
        loop(prepare=lambda model, _: model.eval())
    mutator, said = loop(15, prepare=lambda model, _: model.eval())
    text = only(said, 0)
    assert text.startswith('this step moved weights only, not the structure: the network is in evaluation mode')
    assert 'Sequential.training is False' in text and 'call train() of the network' in text
    with pytest.raises(StructureError, match='there is no importance to choose a structure by'):
        mutator.structure()


def test_evaluation_mode_since_the_last_validation():
    def progress(step):
        model.train(step < 5)
        return step / 20

    model = None

    def keep(trained, _):
        nonlocal model
        model = trained

    _, said = loop(progress=progress, prepare=keep)
    assert 'is in evaluation mode' in only(said, 5)


def test_no_attach():
    with pytest.raises(StructureError, match=r'the mutator saw no step. Call mutator.attach\(optimizer\) with'):
        loop(attach=False)
    _, said = loop(15, attach=False)
    assert 'it saw no step; call mutator.attach(optimizer)' in only(said, 1)


def test_attached_to_an_optimizer_that_is_not_used():
    model, mutator = searched()
    unused, optimizer = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    mutator.attach(unused)
    with pytest.warns(SearchWarning, match='has taken no step'):
        for step in range(2):
            mutator.set_progress(step / 20)
            optimizer.zero_grad()
            F.cross_entropy(model(batch()[0]), batch()[1]).backward()
            optimizer.step()


def test_no_progress():
    mutator, said = loop(progress=lambda step: None)
    assert 'call mutator.set_progress(step / steps) before every step' in only(said, 0)


def test_progress_that_stays():
    mutator, said = loop(60, progress=lambda step: step // 60)
    assert 'the progress of the search has been 0 for 50 steps' in only(said, 49)


def test_progress_that_goes_back():
    mutator, said = loop(10, progress=lambda step: 0.5 - step / 20)
    assert 'went back from 0.5 to 0.45' in only(said, 1)


@pytest.mark.parametrize(('train', 'text'), [
    (lambda model: copy.deepcopy(model), 'not a copy of it'),
    (lambda model: lambda x: model(x).detach() + torch.zeros(5, requires_grad=True), 'no gradient reached the masks'),
])  # fmt: skip
def test_no_gradient(train, text):
    _, said = loop(10, train=train)
    assert text in only(said, 0)


def test_gradients_that_are_dropped():
    """zero_grad() between backward() and step()."""
    model, mutator = searched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mutator.attach(optimizer)
    mutator.set_progress(0.0)
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    optimizer.zero_grad()
    with pytest.warns(SearchWarning, match=r'call zero_grad\(\) before backward\(\), not between'):
        optimizer.step()


def test_two_optimizers():
    """The one that was attached last is followed; the other may step as it likes."""
    model, mutator = searched()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[:3], model[3:]))
    mutator.attach(first)
    mutator.attach(second)
    mutator.attach(second)
    for step in range(4):
        mutator.set_progress(step / 20)
        second.zero_grad()
        F.cross_entropy(model(batch()[0]), batch()[1]).backward()
        first.zero_grad()
        first.step(), second.step()
    assert mutator._steps == 4 and bool(mutator.importance.any())


def test_nothing_was_trained():
    model, mutator = searched()
    for ask in (mutator.structure, lambda: mutator.set_progress(1.0)):
        with pytest.raises(StructureError, match='no importance .* use mmdms.StructuredDPFMutator'):
            ask()
    assert not bool(mutator.settled)


def test_a_resumed_search_has_its_importance():
    mutator, _ = loop(10)
    _, resumed = searched()
    resumed.load_state_dict(mutator.state_dict())
    assert resumed.structure().report() == mutator.structure().report()


def test_a_pruning_without_attach():
    model = network()
    mutator = DPFMutator(0.5)
    mutator.prepare(model, mutator.survey(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(SearchWarning, match=r'it saw no step; call mutator.attach\(optimizer\)'):
        for step in range(2):
            mutator.set_progress(step / 20)
            optimizer.zero_grad()
            F.cross_entropy(model(batch()[0]), batch()[1]).backward()
            optimizer.step()
