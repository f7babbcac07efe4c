"""Attention by ``scaled_dot_product_attention`` costs what mmengine counts of it, which is nothing.

PyTorch computes it step by step where queries and values differ in width, and where a mask needs a gradient.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers.adapted import flops, noise
from helpers.tiny import random_mask
from torch import nn

from mmdms.api import build_search_space
from mmdms.slicing.slim import slim

TOKENS, HEADS = 5, 2


class Attending(nn.Module):
    """Attention of 2 heads over x (B, 5, 8), in a function of PyTorch, under a learned mask or none."""

    def __init__(self, width, value_width, learned=False):
        super().__init__()
        self.query, self.key = nn.Linear(8, HEADS * width), nn.Linear(8, HEADS * width)
        self.value, self.out = nn.Linear(8, HEADS * value_width), nn.Linear(HEADS * value_width, 6)
        self.mask = nn.Parameter(torch.zeros(TOKENS, TOKENS)) if learned else None
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.head(self.out(mixed.transpose(1, 2).flatten(2))).mean(1)


@pytest.mark.parametrize(
    ('options', 'linear'),
    [
        ((4, 4), 5 * (8 * 8 * 3 + 8 * 6 + 6 * 3)),
        ((4, 2), 5 * (8 * 8 * 2 + 8 * 4 + 4 * 6 + 6 * 3)),
        ((4, 4, True), 5 * (8 * 8 * 3 + 8 * 6 + 6 * 3)),
    ],
    ids=['fused', 'widths that differ', 'learned mask'],
)
def test_only_the_linear_layers_cost(options, linear):
    model, x = Attending(*options).eval(), noise(1, TOKENS, 8)
    space = build_search_space(model, x)
    assert space.cost('flops', torch.ones(space.num_elements)) == linear == flops(model, (x,))
    assert 'attention' in space.uncounted['']
    mask = random_mask(space, seed=1)
    assert space.cost('flops', mask) == flops(slim(model, space, space.structure(mask)).eval(), (x,))


def test_only_the_linear_layers_cost_at_another_size():
    model, x = Attending(4, 2).eval(), noise(1, 20, 8)
    space = build_search_space(model, noise(1, TOKENS, 8), flops_inputs=x)
    assert space.cost('flops', torch.ones(space.num_elements)) == flops(model, (x,))


class Transformed(nn.Module):
    """Multi-head attention of its own layer, which hands out no weights."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.layer, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        x = self.inner(x)
        return self.head(self.layer(x, x, x, need_weights=False)[0]).mean(1)


def test_a_slice_that_is_searched_anew_costs_what_it_costs():
    """Its queries and values may differ in width, and so take the steps."""
    model, x = Transformed().eval(), noise(1, TOKENS, 8)
    space = build_search_space(model, x)
    structures = [random_mask(space, seed) for seed in range(4)]
    widths = set()
    for mask in structures:
        subnet = slim(model, space, space.structure(mask)).eval()
        widths.add(subnet.layer.qk_dims == subnet.layer.v_dims)
        again = build_search_space(subnet, x, verify=False)
        counted = flops(subnet, (x,))
        assert again.cost('flops', torch.ones(again.num_elements)) == counted == space.cost('flops', mask)
    assert False in widths
