"""Modules that nobody here has seen: handled exactly, or frozen with a reason; the network always works."""

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, reasons, sizes, space_of
from mmcv.ops import modulated_deform_conv2d, roi_align
from torch import nn


class Branching(nn.Module):
    """Data decide which way is taken; the example takes the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(6, 6), conv(6, 6)

    def forward(self, x):
        return self.first(x) if float(x.mean().detach()) < 1e9 else self.second(x)


class Free(nn.Module):
    """A parameter that belongs to no layer."""

    def __init__(self, function, *shape):
        super().__init__()
        self.free = nn.Parameter(torch.rand(*shape))
        self.function = function

    def forward(self, x):
        return self.function(x, self.free)


class Halves(nn.Module):
    """A split by an attribute, and layers of that size behind it."""

    def __init__(self):
        super().__init__()
        self.mid = 2
        self.left, self.right = conv(2, 3), conv(4, 3)

    def forward(self, x):
        return self.left(x[:, : self.mid]) + self.right(x[:, self.mid :])


class Written(nn.Module):
    """Writes its result into a tensor through a view."""

    def forward(self, x):
        out = x.new_zeros(x.shape)
        out[:, :3] = x[:, :3]
        out[:, 3:] = x[:, 3:] * 2
        return out


def around(middle, width=6):
    torch.manual_seed(0)
    layers = dict(a=conv(3, 6), middle=middle, b=conv(width, 5), out=conv(5, 2))
    return Net(lambda n, x: n.out(n.b(n.middle(n.a(x)))), **layers)


def test_control_flow_that_depends_on_data():
    space = space_of(around(Branching()), image())
    # The mean over channels that decides is that of the channels that stay. The way that was not taken is listed.
    assert sizes(space) == {'a': 6, 'middle.first': 6, 'b': 5}
    assert 'is not used by the traced call' in reasons(space)['middle.second']


@pytest.mark.parametrize(
    ('function', 'shape', 'expected'),
    [
        (lambda x, w: F.linear(x.permute(0, 2, 3, 1), w).permute(0, 3, 1, 2), (7, 6), {'a': 6, 'middle': 7, 'b': 5}),
        (lambda x, w: torch.einsum('bchw,dc->bdhw', x, w), (7, 6), {'a': 6, 'middle': 7, 'b': 5}),
        (lambda x, w: F.conv2d(x, w), (7, 6, 1, 1), {'a': 6, 'middle': 7, 'b': 5}),
        (lambda x, w: x * w, (6, 1, 1), {'a': 6, 'b': 5}),
        (lambda x, w: x @ w, (4, 4), {'a': 6, 'b': 5}),
    ],
    ids=['linear', 'einsum', 'convolution', 'scale', 'over space'],
)
def test_a_parameter_outside_a_layer(function, shape, expected):
    net = around(Free(function, *shape), width=expected.get('middle', 6))
    space = space_of(net, image())
    frozen = {name: size for name, size in expected.items() if name not in sizes(space)}
    assert sizes(space).items() <= expected.items()
    assert not frozen or reasons(space), 'what is not searched has a reason'


def test_a_split_by_an_attribute():
    space = space_of(around(Halves(), width=3), image())
    # The attribute follows what it counts.
    assert sizes(space) == {'a': 2, 'a#2': 4, 'middle.left': 3, 'b': 5}
    assert reasons(space) == {}


def test_writes_through_views():
    space = space_of(around(Written()), image())
    assert sizes(space) == {'b': 5} and 'writes through a view' in str(reasons(space))


class Rois(nn.Module):
    def forward(self, x):
        return roi_align(x, x.new_tensor([[0, 0, 0, 3, 3], [0, 1, 1, 3, 2]]), (2, 2), 1.0)


class Deformable(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6, 6, 1, 1))

    def forward(self, x):
        offset, mask = torch.zeros_like(x[:, :2]), torch.ones_like(x[:, :1])
        return modulated_deform_conv2d(x, offset, mask, self.weight, None, 1, 0, 1, 1, 1)


@pytest.mark.parametrize('middle', [Rois(), Deformable()], ids=['roi_align', 'deformable'])
def test_compiled_operations_that_the_dispatcher_does_not_see(middle):
    space = space_of(around(middle), image())
    assert sizes(space) == {'b': 5}
    assert 'cannot see' in reasons(space)['middle']


def test_layers_that_share_a_weight_are_one_site():
    net = Net(
        lambda n, x: n.out(F.relu(n.b(F.relu(n.a(n.stem(x)))))),
        stem=conv(3, 6), a=conv(6, 6), b=conv(6, 6), out=conv(6, 2),
    )  # fmt: skip
    net.b.weight = net.a.weight
    space = space_of(net, image())
    assert sizes(space) == {'stem': 6}
    # Sliced once: both layers hold one tensor still. One of six: 3 + (1 + bias 2) + (2 + bias 2) + bias 1.
    assert space.cost('params', space.minimum_mask()) == 3 + 1 + 1 + 1 + 1 + 2 + 2
