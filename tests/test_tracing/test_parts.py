"""Channels in equal parts: the rules alone, without the help of verification, give spaces that slice as they mask."""

import pytest
import torch
from helpers.tiny import Net, assert_parity, conv, image, reasons, sizes

from mmdms.api import build_search_space
from mmdms.tracing.rules.views import _splits


def shuffled(x):
    return x.unflatten(1, (2, x.size(1) // 2)).transpose(1, 2).flatten(1, 2)


def paired(x):
    first, second = x.chunk(2, 1)
    return torch.cat([first.relu(), second.sigmoid()], 1)


PARTS = {
    # Two channels are two parts of one: neither can go, or there is no half of what is left.
    'shuffle of two': (lambda n, x: n.out(shuffled(n.a(x))), dict(a=conv(3, 2), out=conv(2, 4)), {}),
    # Two groups of a norm, twice, shuffled twice.
    'shuffle of aaaabbbb': (
        lambda n, x: n.out(shuffled(shuffled(torch.cat([n.norm(n.a(x))] * 2, 1)))),
        dict(a=conv(3, 4), norm=torch.nn.GroupNorm(2, 4), out=conv(8, 4)),
        {},
    ),
    # More parts than two, of one element each, go one by one.
    'three groups': (
        lambda n, x: n.out(n.norm(n.a(x)).unflatten(1, (-1, 2)).flatten(1, 2)),
        dict(a=conv(3, 6), norm=torch.nn.GroupNorm(3, 6), out=conv(6, 4)),
        {'a': 3},
    ),
}
FIXED = {
    # Three channels of the image and three of a: of five, halves would be three and two.
    'chunk beside the image': (
        lambda n, x: n.out(paired(torch.cat([x, n.a(x)], 1))),
        dict(a=conv(3, 3), out=conv(6, 4)),
        'beside channels of fixed number',
    ),
    # Seven channels in three: three, three and one.
    'uneven chunk': (
        lambda n, x: n.out(torch.cat([part.relu() for part in n.a(x).chunk(3, 1)], 1)),
        dict(a=conv(3, 7), out=conv(7, 4)),
        'parts of unequal size',
    ),
}


def test_a_dimension_of_one_that_was_there_divides_nothing():
    """One query for two heads, (2, 1, 4) seen as (1, 2, 1, 4): the heads are no two parts of one."""
    assert list(_splits(torch.Size([2, 1, 4]), torch.Size([1, 2, 1, 4]))) == []
    assert list(_splits(torch.Size([2, 4]), torch.Size([2, 1, 4]))) == [(0, [])]
    assert list(_splits(torch.Size([1, 2, 1, 1]), torch.Size([1, 2, 1, 1, 1]))) == [(1, [])]


@pytest.mark.parametrize('name', PARTS)
def test_parts_lose_equally_many(name):
    run, layers, units = PARTS[name]
    torch.manual_seed(0)
    net = Net(run, **layers)
    space = build_search_space(net, image(), verify=False)
    assert sizes(space) == units
    if units:
        assert reasons(space) == {}
        assert_parity(net, space, image())
    else:
        assert f'its {len(net.a.bias)} channels can only go or stay together' in reasons(space)['a']


@pytest.mark.parametrize('name', FIXED)
def test_parts_that_could_not(name):
    run, layers, reason = FIXED[name]
    net = Net(run, **layers)
    space = build_search_space(net, image(), verify=False)
    assert sizes(space) == {}
    assert reason in reasons(space)['a']
