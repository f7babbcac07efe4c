"""Heads times width: what operations do to labels that are products of two others."""

import pytest
import torch
from helpers.tiny import reasons, sizes, space_of
from torch import nn

from mmdms.adapters.base import Adapter
from mmdms.api import build_search_space
from mmdms.registry import ADAPTERS
from mmdms.tracing.frozen import SINGLE

HEADS, WIDTH, TOKENS = 3, 4, 5


class Divided(nn.Module):
    """A layer whose output is divided into heads, something done to it, and a layer that reads it."""

    def __init__(self, run, heads=HEADS, width=WIDTH, **layers):
        super().__init__()
        self.num_heads, self.head_dims = heads, width
        self.a, self.out = nn.Linear(2, heads * width), nn.Linear(heads * width, 2)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x):
        divided = self.a(x).view(len(x), -1, self.num_heads, self.head_dims).transpose(1, 2)
        return self.out(self.run(self, divided).transpose(1, 2).flatten(2))


@ADAPTERS.register_module()
class DividedAdapter(Adapter):
    adapts = Divided

    def forward(self, x):
        divided = self.split_heads(self.a(x)).transpose(1, 2)  # (B, heads, tokens, width)
        return self.out(self.run(self, divided).transpose(1, 2).flatten(2))


def parameter(*shape):
    return nn.Parameter(torch.rand(*shape))


def convolved(net, x):
    return net.conv(x.flatten(0, 1).transpose(1, 2)).transpose(1, 2).unflatten(0, (len(x), -1))


def rotated(net, x):
    swapped = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
    return x * net.scale + swapped * net.scale


RUNS = {
    'nothing': (lambda n, x: x, {}, 4),
    'a scale per head': (lambda n, x: x * n.scale, dict(scale=parameter(HEADS, 1, 1)), 4),
    'a scale per width': (lambda n, x: n.scale * x, dict(scale=parameter(WIDTH)), 4),
    'a scale per width and token': (lambda n, x: x * n.scale, dict(scale=parameter(TOKENS, WIDTH)), 4),
    'a norm over the width': (lambda n, x: n.norm(x), dict(norm=nn.LayerNorm(WIDTH)), 4),
    'a depthwise convolution of all heads': (convolved, dict(conv=nn.Conv1d(WIDTH, WIDTH, 1, groups=WIDTH)), 4),
    # Each pair of channels is one element.
    'a rotation': (rotated, dict(scale=parameter(TOKENS, WIDTH)), 2),
}


@pytest.mark.parametrize('heads', [HEADS, 1])
@pytest.mark.parametrize('name', RUNS)
def test_heads_and_width_are_searched_apart(name, heads):
    run, layers, width = RUNS[name]
    if name == 'a scale per head':
        layers = dict(scale=parameter(heads, 1, 1))
    net = Divided(run, heads=heads, **layers)
    space = space_of(net, torch.rand(1, TOKENS, 2))
    # A single head must stay: it is no unit.
    units, frozen = ({'num_heads': heads}, {}) if heads > 1 else ({}, {'num_heads': f'{SINGLE.format("head")}; '})
    assert sizes(space) == {**units, 'head_dims': width}
    assert reasons(space) == frozen


def test_a_parameter_that_follows_heads_and_width_keeps_its_size():
    net = Divided(lambda n, x: x * n.scale, scale=parameter(HEADS, 1, WIDTH))
    space = space_of(net, torch.rand(1, TOKENS, 2))
    assert sizes(space) == {}
    assert any('along several dimensions' in reason for reason in reasons(space).values())


def test_cost_of_what_heads_share_shrinks_with_heads_and_width():
    net = Divided(convolved, conv=nn.Conv1d(WIDTH, WIDTH, 1, groups=WIDTH))
    space = build_search_space(net, (torch.rand(1, TOKENS, 2),))
    keep = torch.ones(space.num_elements)
    layers = 2 * TOKENS * 2 * HEADS * WIDTH
    assert space.cost('flops', keep) == layers + TOKENS * HEADS * WIDTH
    keep[:1] = keep[HEADS : HEADS + 2] = 0  # one head, two of the width
    assert space.cost('flops', keep) == layers / 3 + TOKENS * (HEADS - 1) * (WIDTH - 2)
