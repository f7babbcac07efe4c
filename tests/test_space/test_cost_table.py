import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.drawn_spaces import drawn_space
from helpers.tiny import Net, conv, image, random_mask, space_of
from mmengine.analysis import get_model_complexity_info
from torch import nn

from mmdms.slicing.slim import slim
from mmdms.space.cost_table import CostTableBuilder
from mmdms.space.structure import UnitInfo


def first(space, *counts):
    """Mask that keeps the first elements of every unit."""
    parts = [torch.arange(unit.total) < count for unit, count in zip(space.units, counts, strict=True)]
    return torch.cat(parts)


@pytest.mark.parametrize('kept', [1, 2, 4])
def test_two_convolutions_by_hand(kept):
    net = Net(lambda n, x: n.out(n.a(x)), a=conv(3, 4, 3), out=conv(4, 2))
    space = space_of(net, image(size=5))
    # 25 positions: each kept channel takes 9 * 3 multiplications to make and 2 to read.
    assert space.cost('flops', first(space, kept)) == 25 * (27 + 2) * kept
    # 27 weights and a bias to make it, 2 weights to read it; 2 biases of the output stay.
    assert space.cost('params', first(space, kept)) == (28 + 2) * kept + 2


def test_fractions_by_hand():
    net = Net(lambda n, x: n.out(n.a(x)), a=conv(3, 4, 3), out=conv(4, 2))
    space = space_of(net, image())
    assert space.prunable_fraction('flops') == pytest.approx(3 / 4)
    assert space.prunable_fraction('params') == pytest.approx(1 - 32 / 122)


def test_a_network_without_counted_operations():
    net = Net(lambda n, x: F.relu(x) + n.bias, bias=nn.Parameter(torch.ones(3, 1, 1)))
    assert space_of(net, image()).prunable_fraction('flops') == 0.0


@pytest.mark.parametrize('pool', [nn.AdaptiveAvgPool2d(1), Net(lambda _, x: F.adaptive_avg_pool2d(x, 1))])
def test_norms_and_pooling_by_hand(pool):
    layers = dict(a=conv(3, 4, bias=False), bn=nn.BatchNorm2d(4), pool=pool, out=nn.Linear(4, 2))
    space = space_of(Net(lambda n, x: n.out(n.pool(n.bn(n.a(x))).flatten(1)), **layers), image())
    # 16 positions: 3 to make a channel, 2 to normalise it, 1 to pool it; then 2 to read it.
    assert space.cost('flops', first(space, 3)) == 3 * (16 * (3 + 2 + 1) + 2)
    assert space.cost('params', first(space, 3)) == 3 * (3 + 2 + 2) + 2


def test_grouped_and_depthwise_by_hand():
    layers = dict(a=conv(3, 4), g=conv(4, 6, groups=2), dw=conv(6, 6, 3, groups=6), out=conv(6, 2))
    space = space_of(Net(lambda n, x: n.out(n.dw(n.g(n.a(x)))), **layers), image())
    assert [(u.name, u.total) for u in space.units] == [('a', 2), ('g', 3)]
    # One of 2 and two of 3 stay: 2 channels, 4 channels (2 groups of 1 input, 2 outputs).
    flops = 16 * (3 * 2 + 1 * 4 + 9 * 4 + 4 * 2)
    assert space.cost('flops', first(space, 1, 2)) == flops
    assert space.cost('params', first(space, 1, 2)) == (3 * 2 + 2) + (1 * 4 + 4) + (9 * 4 + 4) + (4 * 2 + 2)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(4, 3), conv(3, 4)

    def forward(self, x):
        return x + self.b(F.relu(self.a(x)))


@pytest.fixture
def deep():
    layers = dict(stem=conv(3, 4), blocks=nn.Sequential(Block(), Block()), out=conv(4, 2))
    return Net(lambda n, x: n.out(n.blocks(n.stem(x))), **layers)


def test_blocks_by_hand(deep):
    space = space_of(deep, image())
    assert [u.name for u in space.units] == ['stem', 'blocks.0.a', 'blocks.1.a', 'blocks']
    ends = 16 * (3 * 2 + 2 * 2)
    block = 16 * 2 * 2 * 1  # stem 2, inner 1: 2 * 1 and 1 * 2
    assert space.cost('flops', first(space, 2, 1, 3, 1)) == ends + block
    assert space.cost('flops', first(space, 2, 1, 3, 2)) == ends + block + 16 * 2 * 2 * 3
    assert space.cost('flops', first(space, 2, 1, 3, 0)) == ends
    params = (3 * 2 + 2) + (2 * 2 + 2)
    assert space.cost('params', first(space, 2, 1, 3, 0)) == params
    assert space.cost('params', first(space, 2, 1, 3, 1)) == params + (2 * 1 + 1) + (1 * 2 + 2)


def test_gradients_by_hand(deep):
    space = space_of(deep, image())
    counts = torch.tensor([4.0, 3.0, 3.0, 2.0], dtype=torch.float64, requires_grad=True)
    mask = torch.full((space.num_elements,), 0.5, dtype=torch.float64, requires_grad=True)
    space.costs['flops'](counts, mask).backward()
    # stem: (3 + 2) * 16, and 2 * 3 * 16 in each half-on block; a: 2 * 4 * 16 / 2; blocks: only through their gates.
    assert counts.grad.tolist() == [16 * (5 + 6), 64, 64, 0]
    gates = list(space.blocks)
    assert mask.grad[gates].tolist() == [16 * 2 * 4 * 3] * 2
    assert float(mask.grad.sum()) == 2 * 16 * 2 * 4 * 3


def test_rows_that_count_the_same_are_merged():
    units = [UnitInfo('a', 'channels', 2), UnitInfo('b', 'channels', 3)]
    builder = CostTableBuilder(units)
    a, b = torch.tensor([[0], [1], [-1]]), torch.tensor([[2], [3], [4]])
    builder.add(2.0, [a, b], None)
    builder.add(3.0, [b, a], None)
    builder.add(1.0, [a], None)
    builder.add(7.0, [], None)
    table = builder.build()
    assert len(table.coefficients) == 3
    # (1 + kept a) * kept b * 5 + (1 + kept a) + 7
    assert float(table(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(5, dtype=torch.float64))) == 29


def test_heads_times_width_count_as_a_product():
    units = [UnitInfo('heads', 'heads', 2), UnitInfo('width', 'channels', 3), UnitInfo('x', 'channels', 4)]
    grid = torch.tensor([[h, 2 + d] for _ in range(2) for h in range(2) for d in range(3)])  # queries and keys
    fixed = torch.tensor([[-1, -1]])
    x = torch.tensor([[5], [6], [7], [8]])
    builder = CostTableBuilder(units)
    builder.add(10.0, [torch.cat([grid, fixed]), x], None)
    table = builder.build()
    # 10 * (2 * heads * width + 1) * x
    assert float(table(torch.tensor([1.0, 2.0, 3.0]).double(), torch.zeros(9).double())) == 150


def test_a_table_in_single_precision(deep):
    space = space_of(deep, image())
    table = space.costs['flops'].to('cpu', torch.float32)
    cost = table(torch.tensor([4.0, 3.0, 3.0, 2.0]), torch.ones(space.num_elements))
    assert cost.dtype == torch.float32 and float(cost) == space.cost('flops', torch.ones(space.num_elements))


class Mixed(nn.Module):
    """All kinds of layers whose cost is counted."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*[self.block() for _ in range(3)])
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.squeeze, self.excite = nn.Conv2d(24, 5, 1), nn.Conv2d(5, 24, 1)
        self.up = nn.ConvTranspose2d(24, 6, 2, 2)
        self.tokens = nn.Linear(6, 7)
        self.head = nn.Linear(7, 3)

    @staticmethod
    def block():
        block = Block()
        block.a, block.b = nn.Conv2d(8, 5, 3, padding=1), nn.Conv2d(5, 8, 3, padding=1)
        return block

    def forward(self, x):
        x = self.depthwise(self.grouped(self.blocks(self.stem(x))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(self.pool(x)))))
        x = self.tokens(F.interpolate(self.up(x), scale_factor=2).flatten(2).transpose(1, 2))
        return self.head(x.mean(1))


@pytest.fixture(scope='module')
def mixed():
    torch.manual_seed(0)
    net = Mixed().eval()
    return net, space_of(net, image(size=8))


@pytest.mark.parametrize('seed', range(6))
def test_costs_equal_those_of_the_sliced_network(mixed, seed):
    net, space = mixed
    assert {u.name for u in space.units if u.kind == 'depth'} == {'blocks'}
    mask = random_mask(space, seed)
    subnet = slim(net, space, space.structure(mask))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # mmengine traces with torch.jit
        counted = get_model_complexity_info(subnet, None, (image(size=8),), show_table=False, show_arch=False)
    assert space.cost('flops', mask) == counted['flops']
    assert space.cost('params', mask) == sum(p.numel() for p in subnet.parameters()) == counted['params']


def test_many_structures_cost_what_each_of_them_costs():
    for seed in range(20):
        space = drawn_space(seed)
        table = space.costs['flops']
        masks = torch.stack([random_mask(space, draw) for draw in range(7)])
        counts = torch.stack([space.counts(mask) for mask in masks])
        found = table.of_many(counts, masks[:, table.gated].double())
        expected = torch.tensor([space.cost('flops', mask) for mask in masks], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
