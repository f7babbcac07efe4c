"""Sizes that a forward reads from attributes follow when its channels shrink; the line of a constant is named."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, reasons, sizes
from torch import nn

from mmdms.api import build_search_space
from mmdms.slicing.slim import slim
from mmdms.space.structure import Structure
from mmdms.tracing.attributes import AttributeInt


class Middle(nn.Module):
    """Any function of the module, which holds sizes, and its input."""

    def __init__(self, compute, **attributes):
        super().__init__()
        self.compute = compute
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.compute(self, x)


def network(compute, channels=6, **attributes):
    torch.manual_seed(0)
    return Net(
        lambda n, x: n.out(n.middle(n.a(x))),
        a=conv(3, channels),
        middle=Middle(compute, **attributes),
        out=conv(channels, 2),
    )


SIZED = {
    'reshape': (lambda n, x: x.reshape(1, n.width, 16).view(1, n.width, 4, 4), dict(width=6), 6),
    'view of a tuple': (lambda n, x: x.view(n.shape).view(1, -1, 4, 4), dict(shape=(1, 6, 16)), 6),
    'unequal parts': (
        lambda n, x: torch.cat(x.split([n.first, n.second], 1)[::-1], 1).flip(1), dict(first=2, second=4), None,
    ),
    'a slice up to an attribute': (
        lambda n, x: torch.cat([x[:, : n.first] * 2, x[:, n.first :]], 1), dict(first=2), None,
    ),
    'a part of an attribute': (
        lambda n, x: torch.cat([x[:, : n.width // 2].sin(), x[:, n.width // 2 :]], 1), dict(width=6), 3,
    ),
    'a slice after an ellipsis': (
        lambda n, x: torch.cat([x[..., : n.first, :, :].cos(), x[..., n.first :, :, :]], -3), dict(first=2), None,
    ),
    'narrow': (
        lambda n, x: torch.cat([x.narrow(1, n.first, x.size(1) - n.first), x[:, : n.first]], 1), dict(first=2), None,
    ),
    'layer norm': (
        lambda n, x: F.layer_norm(x.permute(0, 2, 3, 1), n.shape).permute(0, 3, 1, 2), dict(shape=(6,)), 6,
    ),
    'unflatten': (lambda n, x: x.flatten(1).unflatten(1, (n.width, 4, 4)), dict(width=6), 6),
}  # fmt: skip


@pytest.mark.parametrize('name', SIZED)
def test_an_attribute_that_counts_channels_follows_them(name):
    compute, attributes, elements = SIZED[name]
    net = network(compute, **attributes)
    space = build_search_space(net, image())
    found = sizes(space)
    assert sum(found.values()) == elements if elements is not None else sum(found.values()) >= 5
    assert all('does not run' not in reason for reason in reasons(space).values())
    assert vars(net.middle).items() >= attributes.items()
    assert all(type(getattr(net.middle, key)) in (int, tuple) for key in attributes)


def test_the_attribute_of_a_slice_is_a_plain_number():
    net = network(SIZED['reshape'][0], width=6)
    space = build_search_space(net, image())
    subnet = slim(net, space, Structure(space.units, [[1, 4]]))
    assert subnet.middle.width == 2 and type(subnet.middle.width) is int
    assert net.middle.width == 6 and type(net.middle.width) is int


def test_an_item_of_a_tuple_follows():
    net = network(SIZED['layer norm'][0], shape=(6,))
    space = build_search_space(net, image())
    assert slim(net, space, Structure(space.units, [[1, 4]])).middle.shape == (2,)


def test_what_counts_something_fixed_too_stays():
    net = network(lambda n, x: x.view(1, n.size, 16).view(1, -1, 4, n.size), 4, size=4)
    space = build_search_space(net, image())
    assert sizes(space) == {}
    assert 'middle.size counts them, and something of fixed size in view' in str(reasons(space))


def test_the_line_of_a_constant_is_named():
    net = network(lambda n, x: x.reshape(1, 6, 16).view(1, 6, 4, 4))
    found = str(reasons(build_search_space(net, image())))
    assert 'does not run' in found and 'test_attributes.py:' in found and 'x.reshape(1, 6, 16)' in found


def test_numbers_forget_where_they_are_from():
    number = AttributeInt.of(6, 'a', 'width')
    assert type(number * 2) is AttributeInt and type(number // 3) is AttributeInt and (number // 3).times * 3 == 1
    assert type(number // 4) is int and type(number + 1) is int and type(number * 0.5) is float
    assert type(number * True) is int and type(number // torch.tensor(2)) is not AttributeInt
    assert type(pickle.loads(pickle.dumps(number))) is int
