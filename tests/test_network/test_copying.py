"""Networks that keep tensors of a computation are copied, searched and sliced as others are."""

import threading
import warnings

import pytest
import torch
from helpers.tiny import image, sizes
from torch import nn

import mmdms
from mmdms.errors import ModelError
from mmdms.network.copying import copy_network
from mmdms.verification.parity import check_parity
from mmdms.verification.verifier import random_structure


class Keeps(nn.Module):
    """Keeps what it computes: as an attribute, in a list and a dict, in a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
        self.scale = nn.Parameter(torch.ones(1))
        self.history, self.by_name = [], {}
        self.register_buffer('running', torch.zeros(1))

    def forward(self, x):
        self.features = self.a(x).relu()
        self.history.append(self.features)
        self.by_name['a'] = [self.features]
        self.running = 0.9 * self.running + 0.1 * self.scale
        return self.head(self.b(self.features).relu())


NORMS = {
    'weight_norm': nn.utils.weight_norm,
    'spectral_norm': nn.utils.spectral_norm,
    'parametrized weight_norm': nn.utils.parametrizations.weight_norm,
    'parametrized spectral_norm': nn.utils.parametrizations.spectral_norm,
}


def normed(name):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the old weight_norm is deprecated
        layer = NORMS[name](nn.Conv2d(6, 5, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), layer, nn.Conv2d(5, 2, 1))


def searched(model):
    """A search of a few steps of a network that was trained before; returns what it ended with."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(image(size=8)).square().sum().backward()
    space = mmdms.build_search_space(model, image(size=8))
    mutator = mmdms.DMSMutator(budget=dict(metric='flops', target=0.9))
    mutator.prepare(model, space)
    mutator.attach(optimizer)
    for step in range(4):
        mutator.set_progress(step / 4)
        optimizer.zero_grad()
        model(image(size=8)).square().sum().backward()
        optimizer.step()
    mutator.set_progress(1.0)
    return space, mutator.structure()


def assert_slice(model, space, structure):
    subnet = mmdms.slim(model.train(), space, structure).eval()  # as it is after a training step: with its graph
    with torch.no_grad():
        torch.testing.assert_close(subnet(image(size=8)), model.eval()(image(size=8)), rtol=1e-4, atol=1e-5)
    assert check_parity(model, space, random_structure(space, 0.5), (image(size=8),)).holds


def test_a_network_that_keeps_activations():
    model = Keeps()
    model(image(size=8)).sum().backward()
    kept = model.features
    space = mmdms.build_search_space(model, image(size=8))
    assert sizes(space) == {'a': 8, 'b': 6}
    # The network has its own still, as they were, and nothing that was computed for the space.
    assert model.features is kept and kept.grad_fn is not None and model.running.grad_fn is not None
    assert [id(x) for x in model.history] == [id(kept)] and model.by_name['a'][0] is kept
    space, structure = searched(model)
    assert_slice(model, space, structure)


@pytest.mark.parametrize('name', NORMS)
def test_a_network_whose_weights_are_computed(name):
    model = normed(name)
    space, structure = searched(model)
    assert sizes(space)['0'] == 8
    assert_slice(model, space, structure)


def test_a_copy_has_values_and_no_graph():
    model = Keeps()
    model(image())
    shared = model.a.weight
    copied = copy_network(model, {id(shared): shared})
    assert copied.a.weight is shared and copied.b.weight is not model.b.weight
    torch.testing.assert_close(copied.b.weight, model.b.weight)
    assert copied.features.grad_fn is None and copied.running.grad_fn is None
    assert torch.equal(copied.features, model.features) and not copied.features.requires_grad
    assert copied.history[0] is copied.features is copied.by_name['a'][0]  # one object stays one
    copied.features.zero_()
    assert model.features.any()


def test_a_tensor_kept_in_inference_mode():
    model = Keeps().requires_grad_(False)
    with torch.inference_mode():
        model(image())
    assert torch.equal(copy_network(model).features, model.features)


def test_what_cannot_be_copied_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Keeps())
    model[1].lock = threading.Lock()
    with pytest.raises(ModelError, match=r'1\.lock \(a lock of Keeps\) raises TypeError: cannot pickle .* None'):
        mmdms.build_search_space(model, image())


def test_a_copy_on_another_device_holds_every_tensor_there():
    model = Keeps()
    model(image(size=8))
    model.plain, model.pair = torch.rand(3), (torch.rand(2), 'name')
    copied = copy_network(model, device='meta')
    kept = [copied.plain, copied.pair[0], copied.features, copied.history[0], copied.by_name['a'][0]]
    assert {tensor.device.type for tensor in [*copied.parameters(), *copied.buffers(), *kept]} == {'meta'}
    assert copied.history[0] is copied.features
    assert {type(p) for p in copied.parameters()} == {nn.Parameter}
    assert model.plain.device.type == model.a.weight.device.type == 'cpu'
