"""Slices are compared in every mode that users run."""

import re

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import image, sizes
from torch import nn

from mmdms.api import build_search_space
from mmdms.masks.channel_masks import Masks
from mmdms.slicing.slim import slim
from mmdms.verification.parity import check_parity
from mmdms.verification.verifier import random_structure

RUNS = {
    'no_grad': (torch.no_grad, False),
    'inference_mode': (torch.inference_mode, False),
    'gradients': (torch.enable_grad, False),
    'training': (torch.enable_grad, True),
}


class Encoder(nn.Module):
    def __init__(self, norm_first=False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.embed, self.out = nn.Linear(3, 8), nn.Linear(8, 2)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)

    def forward(self, x, padding=None):
        return self.out(self.encoder(self.embed(x), src_key_padding_mask=padding))


@pytest.mark.parametrize('norm_first', [False, True])
@pytest.mark.parametrize('padded', [False, True])
def test_an_encoder_runs_in_every_mode(norm_first, padded):
    """In evaluation without gradients PyTorch packs a padded batch, which the searched attention could not read."""
    torch.manual_seed(0)
    model = Encoder(norm_first)
    x, padding = torch.rand(2, 5, 3), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    inputs = (x, padding) if padded else (x,)
    space = build_search_space(model, inputs)
    assert 'encoder.layers.0.self_attn.num_heads' in sizes(space)
    structure = random_structure(space, 0.5)
    subnet, masks = slim(model, space, structure), Masks(model, space)
    for context, training in RUNS.values():
        model.train(training), subnet.train(training)
        with context():
            masks.set(space.mask(structure).float(), token='test')
            torch.testing.assert_close(subnet(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    """Two layers that could be searched; what happens to the channels of the second depends on the mode."""

    def __init__(self, change=lambda net, y: y):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)
        self.head, self.drop, self.change = nn.Linear(6, 2), nn.Dropout(0.5), change

    def forward(self, x):
        y = self.b(self.norm(self.a(x)).relu())
        return self.head(F.dropout(self.drop(self.change(self, y)), 0.3, self.training).mean((2, 3)))


def fixed_size(y):
    return y.view(len(y), 6, -1).view(len(y), 6, *y.shape[2:])


CHANGES = {
    'training, other values': (lambda n, y: y * y.size(1) if n.training else y, 'differs .* in training mode'),
    'training, fixed size': (
        lambda n, y: fixed_size(y) if n.training else y,
        'not run in training mode: Runtime',
    ),
    'inference mode': (
        lambda n, y: fixed_size(y) if torch.is_inference_mode_enabled() else y,
        'in inference mode',
    ),
    'no gradients': (lambda n, y: y if torch.is_grad_enabled() else y * y.size(1), 'differs from the masked one by'),
    'gradients': (lambda n, y: y * y.size(1) if torch.is_grad_enabled() else y, 'differs from the masked one by'),
}


@pytest.mark.parametrize('name', CHANGES)
@pytest.mark.parametrize('size', [1, 4])  # norms of a batch of one need two samples at size 1
def test_a_fault_in_one_mode_freezes_the_layer(name, size):
    change, reason = CHANGES[name]
    space = build_search_space(Net(change), image(size=size))
    assert sizes(space) == {'a': 8}
    (found,) = [f.reason for f in space.frozen if f.module == 'b']
    assert re.search(reason, found)


@pytest.mark.parametrize('size', [1, 4])
def test_dropout_and_norms_of_a_batch_are_no_fault(size, capsys):
    net = Net(lambda n, y: y * torch.rand(len(y), 1, 1, 1) if n.training else y)  # a drop path, say
    weight, mean = net.a.weight.clone(), net.norm.running_mean.clone()
    assert sizes(build_search_space(net, image(size=size))) == {'a': 8, 'b': 6}
    assert torch.equal(net.a.weight, weight) and torch.equal(net.norm.running_mean, mean) and net.training
    assert capsys.readouterr().out == ''


def test_running_statistics_are_compared():
    """A fault that shows in what a training step leaves behind, and not in its output."""

    def count(net, y):
        if net.training:
            net.norm.running_mean += 1e-2 * y.size(1)
        return y

    space = build_search_space(Net(count), image())
    assert 'b' not in sizes(space) and any('in training mode' in f.reason for f in space.frozen)


def test_a_buffer_that_is_not_sliced_is_compared():
    """The masked network and its slice each have a buffer of their own, though its size is the same in both."""

    def count(net, y):
        if net.training:
            net.seen += y.size(1)
        return y

    net = Net(count)
    net.register_buffer('seen', torch.zeros(1))
    space = build_search_space(net, image())
    assert 'b' not in sizes(space) and any('in training mode' in f.reason for f in space.frozen)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda n, y: y + torch.randn_like(y) if n.training else y, 'what it computes depends on chance'),
        (lambda n, y: n.missing if n.training else y, 'it raises AttributeError'),
    ],
)
def test_a_network_that_cannot_be_compared_in_training(change, reason, capsys):
    assert sizes(build_search_space(Net(change), image())) == {'a': 8, 'b': 6}
    assert f'not verified in training mode: of the whole network, {reason}' in capsys.readouterr().out


def test_a_forward_that_writes_into_weights_in_training_leaves_the_network_alone():
    def clamp(net, y):
        if net.training:
            net.a.weight.data.clamp_(-1e-3, 1e-3)
        return y

    net = Net(clamp)
    before = net.a.weight.detach().clone()
    build_search_space(net, image())
    assert torch.equal(net.a.weight, before)


def test_a_forward_that_differentiates_itself():
    def slope(net, y):
        if not torch.is_grad_enabled():
            return y
        x = y.detach().requires_grad_()
        return y + torch.autograd.grad(x.square().sum(), x)[0]

    net = Net(slope)
    space = build_search_space(net, image())
    assert sizes(space)['a'] == 8


def test_parity_with_gradients():
    net = Net()
    space = build_search_space(net, image())
    assert check_parity(net, space, random_structure(space, 0.5), image(), gradients=True).holds


def test_a_training_step_after_validation_in_inference_mode():
    """Masks that were set in inference mode serve until the structure changes, with gradients too."""
    net = Net()
    space = build_search_space(net, image())
    masks = Masks(net, space)
    with torch.inference_mode():
        masks.set(space.mask(random_structure(space, 0.5)).float(), token='test')
        net.eval()(image())
    net(image()).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
