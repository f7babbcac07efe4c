"""Norms and other statistics over channels, in whatever class they are computed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, reasons, sizes
from torch import nn

from mmdms.adapters.reductions import MaskedReductions
from mmdms.api import build_search_space
from mmdms.masks.channel_masks import Masks
from mmdms.ops.reductions import reduction_of
from mmdms.slicing.slim import slim
from mmdms.space.structure import Structure

WIDTH = 6


class Norm(nn.Module):
    """A scale and a shift per channel, and any function of the module and its input."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute
        self.weight, self.bias = nn.Parameter(torch.rand(WIDTH) + 0.5), nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        return self.compute(self, x)

    def scaled(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def by_hand(n, x):
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return n.scaled((x - mean) / torch.sqrt(variance + 1e-6))


def of_llama(n, x):
    rows = x.permute(0, 2, 3, 1).float()
    rows = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (n.weight * rows.to(x.dtype) + n.bias).permute(0, 3, 1, 2)


def response(n, x):
    length = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + n.scaled(x * (length / (length.mean(dim=1, keepdim=True) + 1e-6)))


def last(n, x, function):
    return function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def with_mean(x):
    variance, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
    return (x - mean) * torch.rsqrt(variance + 1e-6)


NORMS = {
    'layer norm, permuted': lambda n, x: last(n, x, lambda y: F.layer_norm(y, n.weight.shape, n.weight, n.bias)),
    'layer norm without scale': lambda n, x: n.scaled(last(n, x, lambda y: F.layer_norm(y, y.shape[-1:]))),
    'layer norm by hand': by_hand,
    'by variance and mean': lambda n, x: n.scaled(with_mean(x)),
    'unbiased deviation': lambda n, x: n.scaled((x - x.mean(1, True)) / (x.std(1, keepdim=True) + 0.1)),
    'unbiased by name': lambda n, x: n.scaled(x / (torch.var(x, dim=1, unbiased=False, keepdim=True) + 0.1)),
    'RMS norm': lambda n, x: last(n, x, lambda y: F.rms_norm(y, n.weight.shape, n.weight, 1e-5) + n.bias),
    'RMS norm of Llama': of_llama,
    'RMS norm, one plus the scale': lambda n, x: (
        x * x.square().mean(1, True).add(1e-6).rsqrt() * (1 + n.weight[:, None, None]) + n.bias[:, None, None]
    ),
    'group norm of one group': lambda n, x: F.group_norm(x, 1, n.weight, n.bias),
    'global response norm': response,
    'length one': lambda n, x: n.scaled(F.normalize(x, dim=1)),
    'by its length': lambda n, x: n.scaled(x / torch.linalg.vector_norm(x, 1, 1, keepdim=True)),
    'by the sum': lambda n, x: n.scaled(x / x.abs().sum(axis=1, keepdims=True)),
    'below the largest': lambda n, x: n.scaled(x - x.amax(1, keepdim=True)),
    'above the least': lambda n, x: n.scaled(x - x.min(1, keepdim=True)[0]),
    'over all positions too': lambda n, x: n.scaled((x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True)),
    'twice, in a loop': lambda n, x: n.scaled(sum(x - y.mean(1, keepdim=True) for y in (x, x.square()))),
    'of everything': lambda n, x: n.scaled(x / x.square().mean()),
}  # fmt: skip


def network(compute):
    torch.manual_seed(0)
    return Net(lambda n, x: n.out(n.norm(n.a(x))), a=conv(3, WIDTH), norm=Norm(compute), out=conv(WIDTH, 2))


@pytest.mark.parametrize('name', NORMS)
def test_the_channels_of_a_norm_are_searched_whatever_it_is_called(name):
    net = network(NORMS[name])
    before = type(net.norm)
    space = build_search_space(net, image())  # which compares a slice with its masks in float64
    assert sizes(space) == {'a': WIDTH}
    assert reasons(space) == {}
    assert type(net.norm) is before


@pytest.mark.parametrize('name', NORMS)
def test_soft_masks_come_to_hard_ones(name):
    """A mask of 1e-9 gives what a mask of 0 gives; and a mask of 1 what there is without masks."""
    net = network(NORMS[name]).double()
    x = image().double()
    space = build_search_space(net, x)
    plain = net(x)
    masks = Masks(net, space)
    hard = torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)
    runs = {}
    for mask in (torch.ones(WIDTH, dtype=torch.float64), hard, hard.clamp(min=1e-12).requires_grad_()):
        masks.set(mask)
        runs[mask] = net(x)
    ones, masked, soft = runs.values()
    torch.testing.assert_close(ones, plain)
    torch.testing.assert_close(soft, masked, rtol=1e-6, atol=1e-6)
    soft.square().sum().backward()
    assert bool(list(runs)[-1].grad.isfinite().all())
    masks.remove()
    torch.testing.assert_close(net(x), plain)
    subnet = slim(net, space, Structure(space.units, [[0, 2, 3, 5]]))
    torch.testing.assert_close(subnet(x), masked)


def test_half_masks_weigh_the_mean_and_the_variance():
    net = network(by_hand).double()
    x = image().double()
    space = build_search_space(net, x)
    masks = Masks(net, space)
    mask = torch.tensor([1.0, 0.5, 0.25, 0.0, 1.0, 0.75], dtype=torch.float64)
    masks.set(mask)
    found = net(x)
    masks.remove()
    y, share = net.a(x), (mask / mask.sum())[:, None, None]
    mean = (share * y).sum(1, keepdim=True)
    variance = (share * (y - mean).square()).sum(1, keepdim=True)
    normed = net.norm.scaled((y - mean) / (variance + 1e-6).sqrt())
    torch.testing.assert_close(found, net.out(normed * mask[:, None, None]))


def test_statistics_of_children_are_their_own():
    """A module that masks one mean holds a child with another, over positions of as many."""

    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = Norm(lambda n, x: x - x.mean(1, keepdim=True))

        def forward(self, x):
            return self.child(x) * x.mean(1, keepdim=True)

    net = network(None)
    net.norm = Parent()
    assert sizes(build_search_space(net, image())) == {'a': WIDTH}


def test_statistics_over_the_width_of_heads():
    def attend(n, x):
        y = x.flatten(2).transpose(1, 2).unflatten(-1, (2, 3))
        return F.normalize(y, dim=-1).flatten(2).transpose(1, 2).unflatten(-1, (4, 4))

    assert sizes(build_search_space(network(attend), image())) in ({}, {'a': WIDTH // 2})  # exact or frozen


def test_a_spatial_attention_reads_the_mean_and_the_largest_channel():
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.out(n.gate(torch.cat([n.a(x).mean(1, True), n.a(x).amax(1, True)], 1)).sigmoid() * n.a(x)),
        a=conv(3, WIDTH), gate=conv(2, 1, 3), out=conv(WIDTH, 2),
    )  # fmt: skip
    assert sizes(build_search_space(net, image())) == {'a': WIDTH}


def test_masks_learn_and_are_copied():
    net = network(NORMS['RMS norm of Llama'])
    masks = Masks(net, build_search_space(net, image()))
    assert isinstance(net.norm, MaskedReductions)
    mask = torch.full((WIDTH,), 0.5, requires_grad=True)
    masks.set(mask)
    net(image()).sum().backward()
    assert bool((mask.grad != 0).all())
    copied = copy.deepcopy(net)
    torch.testing.assert_close(copied(image()), net(image()))


def test_half_precision_stays():
    x, mask = torch.rand(2, 4).half(), torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    for func in (torch.mean, torch.sum, torch.std, torch.amax, torch.norm, F.normalize):
        found = reduction_of(func, (x,), dict(dim=1)).masked(mask)
        assert found.dtype == torch.float16 and bool(found.isfinite().all())


@pytest.mark.parametrize('call', [
    (torch.max, (torch.rand(2, 3), torch.rand(2, 3)), {}), (torch.mean, (torch.rand(3),), {'out': torch.rand(())}),
    (torch.linalg.norm, (torch.rand(2, 3),), {}), (torch.sum, (torch.ones(3, dtype=torch.long),), {}),
    (F.layer_norm, (torch.rand(2, 3, 4), (3, 4)), {}), (F.group_norm, (torch.rand(2, 4), 2), {}),
    (torch.relu, (1,), {}),
])  # fmt: skip
def test_other_calls_are_no_reductions(call):
    assert reduction_of(*call) is None
