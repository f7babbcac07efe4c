"""Convolutions whose weights are standardised: the statistics are those of the channels that stay."""

import pytest
import torch
from helpers.adapted import assert_same_forward, flops
from helpers.tiny import Net, assert_parity, conv, image, random_mask, sizes
from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d

from mmdms.adapters.base import adapt
from mmdms.adapters.tools import MASKS
from mmdms.api import build_search_space
from mmdms.slicing.slim import slim

TIMM = ['StdConv2d', 'StdConv2dSame', 'ScaledStdConv2d', 'ScaledStdConv2dSame']


def kind_of(name):
    if name in ('ConvWS2d', 'ConvAWS2d'):
        return dict(ConvWS2d=ConvWS2d, ConvAWS2d=ConvAWS2d)[name]
    return getattr(pytest.importorskip('timm.layers.std_conv'), name)


@pytest.fixture(params=['ConvWS2d', 'ConvAWS2d', *TIMM])
def layer(request):
    torch.manual_seed(0)
    return lambda *channels, **options: kind_of(request.param)(*channels, 3, padding=1, **options)


def check(net, units):
    """Units, costs before and after a random prune by mmengine's count, parity."""
    space = build_search_space(net.eval(), image())
    assert sizes(space) == units
    for mask in (torch.ones(space.num_elements).bool(), random_mask(space, 1)):
        subnet = slim(net, space, space.structure(mask)).eval()
        assert space.cost('flops', mask) == flops(subnet, (image(),))
        assert space.cost('params', mask) == sum(p.numel() for p in subnet.parameters())
    assert_parity(net, space, image())


def test_all_channels_are_searched(layer):
    net = Net(lambda n, x: n.out(n.b(n.a(x).relu())), a=layer(3, 6), b=layer(6, 8), out=conv(8, 4))
    check(net, {'a': 6, 'b': 8})


def test_groups(layer):
    """Both groups of two shrink equally; a depthwise layer follows its channels."""
    layers = dict(a=layer(3, 6), b=layer(6, 8, groups=2), c=layer(8, 8, groups=8), out=conv(8, 4))
    net = Net(lambda n, x: n.out(n.c(n.b(n.a(x).relu()))), **layers)
    check(net, {'a': 3, 'b': 4})


def test_without_masks_it_is_the_layer(layer):
    assert_same_forward(layer(6, 8), image(6))


def test_statistics_by_hand():
    """A filter of 1, 3 and 8, of which 1 and 3 stay: their mean is 2, their deviation the root of 2."""
    conv_ws = ConvWS2d(3, 1, 1, bias=False, eps=0.0)
    conv_ws.weight.data = torch.tensor([1.0, 3.0, 8.0]).view(1, 3, 1, 1)
    adapt(conv_ws, masked=True)
    conv_ws.__dict__[MASKS] = dict(inputs=lambda: torch.tensor([1.0, 1.0, 0.0]))
    out = conv_ws(torch.tensor([5.0, 7.0, 100.0]).view(1, 3, 1, 1))
    assert out.item() == pytest.approx((7 - 5) / 2**0.5)
