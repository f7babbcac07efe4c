"""Op by op: units worked out by hand, and parity of random structures."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, reasons, remarkable, sizes, space_of
from torch import nn

from mmdms.api import build_search_space


@dataclass
class Case:
    """A network, the units it must have, and what must be frozen: module to a part of the reason."""

    run: object
    layers: dict
    units: dict
    frozen: dict = field(default_factory=dict)
    inputs: tuple = ()


def shuffle(x, groups):
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


def halves(net, x):
    a = net.a(x)
    middle = a.shape[1] // 2
    return net.out(net.b(a[:, :middle]) + net.c(a[:, middle:]))


def attention(net, x):
    q, k, v = net.q(x), net.k(x), net.v(x)
    return net.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)


def write_slice(net, x):
    out = torch.zeros(1, 8, 4, 4, dtype=x.dtype)
    out[:, :5] = net.a(x)
    out[:, 5:] = net.b(x)
    return net.out(net.c(out))


def write_add(net, x):
    out = net.a(x)
    out[:, :3] += net.b(x)
    return net.out(out)


SEARCHED = {
    # Two layers in a row: what the first makes and the second reads.
    'chain': Case(lambda n, x: n.out(n.a(x)), dict(a=conv(3, 6, 3), out=conv(6, 4)), {'a': 6}),
    'no bias': Case(lambda n, x: n.out(n.a(x)), dict(a=conv(3, 6, bias=False), out=conv(6, 4)), {'a': 6}),
    'batch norm': Case(
        lambda n, x: n.out(F.relu(n.bn(n.a(x)))), dict(a=conv(3, 6), bn=nn.BatchNorm2d(6), out=conv(6, 4)), {'a': 6}
    ),
    'plain batch norm': Case(
        lambda n, x: n.out(n.bn(n.a(x))),
        dict(a=conv(3, 6), bn=nn.BatchNorm2d(6, affine=False), out=conv(6, 4)),
        {'a': 6},
    ),
    'instance norm': Case(
        lambda n, x: n.out(n.norm(n.a(x))),
        dict(a=conv(3, 6), norm=nn.InstanceNorm2d(6, affine=True), out=conv(6, 4)),
        {'a': 6},
    ),
    # Channel j of both groups is one element, as the shuffle divides evenly.
    'channel shuffle': Case(lambda n, x: n.out(shuffle(n.a(x), 2)), dict(a=conv(3, 6), out=conv(6, 4)), {'a': 3}),
    # Groups of two channels each go as a whole.
    'group norm': Case(
        lambda n, x: n.out(n.norm(n.a(x))), dict(a=conv(3, 6), norm=nn.GroupNorm(3, 6), out=conv(6, 4)), {'a': 3}
    ),
    'group norm, one group': Case(
        lambda n, x: n.out(n.norm(n.a(x))), dict(a=conv(3, 6), norm=nn.GroupNorm(1, 6), out=conv(6, 4)), {'a': 6}
    ),
    'layer norm': Case(
        lambda n, x: n.out(n.norm(n.a(x).flatten(2).mT)),
        dict(a=conv(3, 6), norm=nn.LayerNorm(6), out=nn.Linear(6, 4)),
        {'a': 6},
    ),
    # A residual add makes its two producers one unit.
    'residual': Case(
        lambda n, x: n.out(n.a(x) + n.b(n.c(n.a(x)))),
        dict(a=conv(3, 6), b=conv(5, 6), c=conv(6, 5), out=conv(6, 4)),
        {'a': 6, 'c': 5},
    ),
    'concat': Case(
        lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], 1)),
        dict(a=conv(3, 4), b=conv(3, 5), out=conv(9, 2)),
        {'a': 4, 'b': 5},
    ),
    # Each part of a residual sum of concatenations is a unit of its own.
    'concat and add': Case(
        lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], 1) + n.c(x)),
        dict(a=conv(3, 4), b=conv(3, 5), c=conv(3, 9), out=conv(9, 2)),
        {'a': 4, 'b': 5},
    ),
    'stack': Case(
        lambda n, x: n.out(torch.stack([n.a(x), n.b(x)], 1).sum(1)),
        dict(a=conv(3, 5), b=conv(3, 5), out=conv(5, 2)),
        {},
        {'a': 'mixed with other channels', 'b': 'mixed with other channels'},
    ),
    # Halves of a chunk are equal: 8 channels are 4 pairs; b and c are added.
    'chunk': Case(
        lambda n, x: n.out(n.b(n.a(x).chunk(2, 1)[0]) + n.c(n.a(x).chunk(2, 1)[1])),
        dict(a=conv(3, 8), b=conv(4, 3), c=conv(4, 3), out=conv(3, 2)),
        {'a': 4, 'b': 3},
    ),
    # So are halves of a slice, as what slices them looks for the middle.
    'halves': Case(halves, dict(a=conv(3, 8), b=conv(4, 3), c=conv(4, 3), out=conv(3, 2)), {'a': 4, 'b': 3}),
    # Parts of a view that are added up: a channel of the sum is one of every part.
    'sum of parts': Case(
        lambda n, x: n.out(n.a(x).unflatten(1, (2, -1)).sum(1)), dict(a=conv(3, 6), out=conv(3, 2)), {'a': 3}
    ),
    'softmax over parts': Case(
        lambda n, x: n.out(n.a(x).unflatten(1, (3, -1)).softmax(1).flatten(1, 2)),
        dict(a=conv(3, 6), out=conv(6, 2)),
        {'a': 2},
    ),
    # A filter in the frequency domain, with one complex number per channel and frequency.
    'fourier': Case(
        lambda n, x: n.out(torch.fft.irfft2(torch.fft.rfft2(n.a(x)) * torch.view_as_complex(n.w))),
        dict(a=conv(3, 6), w=nn.Parameter(torch.rand(6, 4, 3, 2)), out=conv(6, 2)),
        {'a': 6},
    ),
    'complex parts': Case(
        lambda n, x: n.out(torch.view_as_real(torch.fft.rfft2(n.a(x))).sum(-1)),
        dict(a=conv(3, 6), out=conv(6, 2)),
        {'a': 6},
    ),
    'resampled parameter': Case(
        lambda n, x: n.out(n.a(x) + F.interpolate(n.w, (4, 4), mode='bilinear')),
        dict(a=conv(3, 6), w=nn.Parameter(torch.rand(1, 6, 2, 2)), out=conv(6, 2)),
        {'a': 6},
    ),
    'flatten': Case(
        lambda n, x: n.out(F.adaptive_avg_pool2d(n.a(x), 2).flatten(1)),
        dict(a=conv(3, 4), out=nn.Linear(16, 5)),
        {'a': 4},
    ),
    'flatten of a concat': Case(
        lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], 1).flatten(1)),
        dict(a=conv(3, 2), b=conv(3, 3), out=nn.Linear(80, 5)),
        {'a': 2, 'b': 3},
    ),
    'depthwise': Case(
        lambda n, x: n.out(n.dw(n.a(x))), dict(a=conv(3, 6), dw=conv(6, 6, 3, groups=6), out=conv(6, 4)), {'a': 6}
    ),
    'depthwise, multiplier 2': Case(
        lambda n, x: n.out(n.dw(n.a(x))), dict(a=conv(3, 6), dw=conv(6, 12, 3, groups=6), out=conv(12, 4)), {'a': 6}
    ),
    # Four groups of 2 inputs and 3 outputs: groups shrink alike.
    'grouped': Case(
        lambda n, x: n.out(n.g(n.a(x))),
        dict(a=conv(3, 8), g=conv(8, 12, 3, groups=4), out=conv(12, 3)),
        {'a': 2, 'g': 3},
    ),
    'squeeze and excite': Case(
        lambda n, x: n.out(n.a(x) * torch.sigmoid(n.up(F.relu(n.down(n.a(x).mean((2, 3), keepdim=True)))))),
        dict(a=conv(3, 6), down=conv(6, 2), up=conv(2, 6), out=conv(6, 4)),
        {'a': 6, 'down': 2},
    ),
    'squeeze and excite by linear layers': Case(
        lambda n, x: n.out(n.a(x) * n.up(n.down(n.a(x).mean((2, 3))))[:, :, None, None]),
        dict(a=conv(3, 6), down=nn.Linear(6, 2), up=nn.Linear(2, 6), out=conv(6, 4)),
        {'a': 6, 'down': 2},
    ),
    'transposed': Case(
        lambda n, x: n.out(n.t(n.a(x))),
        dict(a=conv(3, 6), t=nn.ConvTranspose2d(6, 5, 2, stride=2), out=conv(5, 2)),
        {'a': 6, 't': 5},
    ),
    # A weight used twice in a row: its outputs are its inputs.
    'shared twice': Case(
        lambda n, x: n.out(n.s(n.s(n.a(x)))), dict(a=conv(3, 4), s=conv(4, 4), out=conv(4, 2)), {'a': 4}
    ),
    # A head over two levels: what it reads is one unit, and what it makes another.
    'shared head': Case(
        lambda n, x: (n.out(n.h(n.a(x))), n.out(n.h(n.b(x)))),
        dict(a=conv(3, 4), b=conv(3, 4), h=conv(4, 3), out=conv(3, 2)),
        {'a': 4, 'h': 3},
    ),
    # An elementwise parameter follows what it meets.
    'layer scale': Case(
        lambda n, x: n.out(n.a(x) * n.gamma),
        dict(a=conv(3, 6), gamma=nn.Parameter(torch.rand(6, 1, 1)), out=conv(6, 4)),
        {'a': 6},
    ),
    'prelu': Case(lambda n, x: n.out(n.act(n.a(x))), dict(a=conv(3, 6), act=nn.PReLU(6), out=conv(6, 4)), {'a': 6}),
    # A map of one channel over all channels ties nothing.
    'spatial attention': Case(
        lambda n, x: n.out(n.a(x) * torch.sigmoid(n.m(n.a(x)))),
        dict(a=conv(3, 6), m=conv(6, 1), out=conv(6, 4)),
        {'a': 6},
        {'m': 'is spread over other channels'},
    ),
    'softmax over space': Case(
        lambda n, x: n.out(torch.softmax(n.a(x).flatten(2), -1).view(1, -1, 4, 4)),
        dict(a=conv(3, 6), out=conv(6, 4)),
        {'a': 6},
    ),
    'pooling': Case(
        lambda n, x: n.out(F.avg_pool2d(F.max_pool2d(n.a(x), 2, 1), 2)), dict(a=conv(3, 6), out=conv(6, 4)), {'a': 6}
    ),
    'pooling of a map that lies channels last': Case(
        lambda n, x: n.out(F.adaptive_avg_pool2d(n.a(x).to(memory_format=torch.channels_last), 1)),
        dict(a=conv(3, 6), out=conv(6, 4)),
        {'a': 6},
    ),
    'bias per position': Case(
        lambda n, x: n.out(n.a(x) + n.bias),
        dict(a=conv(3, 6), bias=nn.Parameter(torch.rand(4, 4)), out=conv(6, 4)),
        {'a': 6},
    ),
    # The inner layers mix the 16 positions of every channel, and keep their sizes.
    'mixed positions': Case(
        lambda n, x: n.out(n.c(F.relu(n.b(n.a(x).flatten(2)))).view(1, -1, 4, 4)),
        dict(a=conv(3, 6), b=nn.Linear(16, 5), c=nn.Linear(5, 16), out=conv(6, 4)),
        {'a': 6},
        {'b': 'mixes positions', 'c': 'mixes positions'},
    ),
    'resampling': Case(
        lambda n, x: n.out(F.interpolate(F.interpolate(n.a(x), scale_factor=2), size=(3, 3), mode='bilinear')),
        dict(a=conv(3, 6), out=conv(6, 4)),
        {'a': 6},
    ),
    'padding': Case(lambda n, x: n.out(F.pad(n.a(x), (1, 2, 0, 1))), dict(a=conv(3, 6), out=conv(6, 4)), {'a': 6}),
    # Zeros beside the channels stay: out reads 4 elements and 2 fixed positions.
    'padded channels': Case(
        lambda n, x: n.out(F.pad(n.a(x), (0, 0, 0, 0, 1, 1))), dict(a=conv(3, 4), out=conv(6, 4)), {'a': 4}
    ),
    # The four channels of an upscaled pixel move together.
    'pixel shuffle': Case(
        lambda n, x: n.out(F.pixel_shuffle(n.a(x), 2)), dict(a=conv(3, 8), out=conv(2, 4)), {'a': 2}
    ),
    'pixel unshuffle': Case(
        lambda n, x: n.out(F.pixel_unshuffle(n.a(x), 2)), dict(a=conv(3, 3), out=conv(12, 4)), {'a': 3}
    ),
    'repeated channels': Case(
        lambda n, x: n.out(n.a(x).repeat_interleave(2, 1)), dict(a=conv(3, 6), out=conv(12, 4)), {'a': 6}
    ),
    'tokens': Case(
        lambda n, x: n.out(F.gelu(n.a(x.flatten(2).transpose(1, 2)))),
        dict(a=nn.Linear(3, 6), out=nn.Linear(6, 4)),
        {'a': 6},
    ),
    'tokens without bias': Case(
        lambda n, x: n.out(n.a(x.flatten(2).transpose(1, 2))),
        dict(a=nn.Linear(3, 6, bias=False), out=nn.Linear(6, 4, bias=False)),
        {'a': 6},
    ),
    'conv1d': Case(
        lambda n, x: n.out(n.a(x.flatten(2))), dict(a=nn.Conv1d(3, 6, 3), out=nn.Conv1d(6, 4, 1)), {'a': 6}
    ),
    'conv3d': Case(
        lambda n, x: n.out(n.a(x.unsqueeze(2))), dict(a=nn.Conv3d(3, 6, 1), out=nn.Conv3d(6, 4, 1)), {'a': 6}
    ),
    # Scores are contracted over q and k; what v makes passes.
    'attention': Case(
        attention,
        dict(q=nn.Linear(3, 6), k=nn.Linear(3, 6), v=nn.Linear(3, 5), out=nn.Linear(5, 2)),
        {'v': 5},
        {'q': 'contracted between two activations', 'k': 'contracted between two activations'},
        (torch.rand(1, 7, 3),),
    ),
    'add of constants': Case(lambda n, x: n.out(2 * n.a(x) + 1), dict(a=conv(3, 6), out=conv(6, 4)), {'a': 6}),
    'several outputs': Case(
        lambda n, x: dict(one=n.out(n.a(x)), two=[n.b(n.c(x))]),
        dict(a=conv(3, 6), out=conv(6, 4), c=conv(3, 5), b=conv(5, 2)),
        {'a': 6, 'c': 5},
    ),
}


class Allocating(torch.autograd.Function):
    """As the functions of mmcv do: allocates, then fills where no dispatcher sees it."""

    @staticmethod
    def forward(ctx, x):
        out = x.new_zeros(x.shape)
        out.numpy()[:] = 2 * x.detach().numpy()
        return out

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Visible(torch.autograd.Function):
    """Computes with operations that have rules."""

    @staticmethod
    def forward(ctx, x):
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Opaque(torch.autograd.Function):
    """Doubles by way of NumPy, where no dispatcher sees it."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


ACTIVATIONS = {
    'relu': F.relu, 'relu_': F.relu_, 'relu6_': lambda x: F.relu6(x, inplace=True),
    'silu_': lambda x: F.silu(x, inplace=True),
    'hardswish': F.hardswish, 'hardswish_': lambda x: F.hardswish(x, inplace=True), 'gelu': F.gelu, 'mish': F.mish,
    'hardsigmoid_': lambda x: F.hardsigmoid(x, inplace=True), 'leaky_relu': F.leaky_relu, 'elu': F.elu,
    'leaky_relu_': lambda x: F.leaky_relu(x, inplace=True), 'mish_': lambda x: F.mish(x, inplace=True),
    'selu_': lambda x: F.selu(x, inplace=True), 'softplus': F.softplus, 'clamp_': lambda x: x.clamp_(0, 1),
    'masked_fill': lambda x: x.masked_fill(x < 0, 0.5), 'where': lambda x: torch.where(x > 0, x, 0.1 * x),
    'dropout': lambda x: F.dropout(x, 0.5, training=False), 'abs_': lambda x: x.abs_(), 'pow': lambda x: x**2,
    'custom function': Visible.apply,
}  # fmt: skip

# What b makes is always searched: one frozen layer freezes no other.
FROZEN = {
    'cumsum': (lambda x: x.cumsum(1), 'aten.cumsum'),
    'fft': (lambda x: torch.fft.fft(x, dim=1).real, 'aten._fft'),
    'sort': (lambda x: x.sort(1)[0], 'aten.sort'),
    'topk': (lambda x: x.topk(6, 1)[0], 'aten.topk'),
    'custom function': (Opaque.apply, 'OpaqueBackward, which the dispatcher cannot see'),
    'custom function that allocates': (Allocating.apply, 'AllocatingBackward, which the dispatcher cannot see'),
    'product over channels': (lambda x: x - x.prod(1, keepdim=True), 'reaches aten.prod'),
    'place of the largest': (lambda x: x * x.argmax(1, keepdim=True), 'reaches aten.argmax'),
    'softmax over channels': (lambda x: x.softmax(1), 'is normalised by aten._softmax'),
    'constant of fixed size': (lambda x: x * torch.ones(6, 1, 1, dtype=x.dtype), 'meets a tensor of fixed size'),
    'layer norm over positions too': (lambda x: F.layer_norm(x, [6, 4, 4]), 'layer norm that knows no masks'),
    'group norm': (lambda x: F.group_norm(x, 2), 'group norm that knows no masks'),
    'bits': (lambda x: x.view(torch.int16).view(x.dtype), 'is taken apart by aten.view'),
    'repeats by a tensor': (lambda x: x.repeat_interleave(torch.tensor([1, 1, 1, 1, 1, 1]), 1), 'does not run'),
    'value in Python': (lambda x: x * x.prod().item(), 'aten.prod'),
    'overwritten': (lambda x: x.fill_(0.5), 'is overwritten by aten.fill_'),
    # Sizes in Python: verification finds them.
    'count in Python': (lambda x: x * x.size(1), 'differs from the masked one'),
    'layer norm of fixed size': (
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), [6]).permute(0, 3, 1, 2),
        'does not run',
    ),
    'fixed split': (lambda x: torch.cat(x.split([2, 4], 1)[::-1], 1), 'does not run'),
    # Two channels of three parts: the parts would have to shrink alike.
    'fixed view': (lambda x: x.view(1, 3, 2, 16).flip(1).view(1, 6, 4, 4), 'does not run', 2),
}


@pytest.mark.parametrize('name', SEARCHED)
def test_units(name):
    case = SEARCHED[name]
    torch.manual_seed(0)
    space = space_of(Net(case.run, **case.layers), *(case.inputs or (image(),)))
    assert sizes(space) == case.units
    found = reasons(space)
    assert set(found) == set(case.frozen)
    for module, reason in case.frozen.items():
        assert reason in found[module]


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activations_pass(name):
    net = Net(lambda n, x: n.out(ACTIVATIONS[name](n.a(x))), a=conv(3, 6), out=conv(6, 4))
    space = space_of(net, image())
    assert sizes(space) == {'a': 6}
    assert reasons(space) == {}


class Middle(nn.Module):
    """Gives an operation a module name to be reported under."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize('name', FROZEN)
def test_frozen(name):
    function, reason, *elements = FROZEN[name]
    net = Net(
        lambda n, x: n.out(n.b(n.middle(n.a(x)))), a=conv(3, 6), middle=Middle(function), b=conv(6, 5), out=conv(5, 2)
    )
    space = space_of(net, image())
    assert sizes(space) == {'b': 5}
    # What tracing finds names the module that ran the operation, and verification the unit at fault.
    (module,) = reasons(space)
    assert module in ('middle', 'a')
    assert reason in reasons(space)[module]
    assert [sum(f.elements for f in remarkable(space) if f.module == module)] == (elements or [6])


def test_the_guard_tells_parts_of_a_split_apart():
    def run(net, x):
        first, second = net.a(x).split([2, 4], 1)
        return net.out(net.b(torch.cat([Opaque.apply(Opaque.apply(first)), second], 1)))

    net = Net(run, a=conv(3, 6), b=conv(6, 5), out=conv(5, 2))
    space = build_search_space(net, image(), verify=False)
    # Tracing alone: the 2 channels that go through the function are frozen, the other 4 are not.
    assert sizes(space) == {'a': 4, 'b': 5}
    assert [f.elements for f in space.frozen if 'cannot see' in f.reason] == [2]


def frozen_and_searched(run, units, reason, **layers):
    """A network whose verified units are these, and one of whose reasons says that."""
    space = space_of(Net(run, **layers), image())
    assert sizes(space) == units
    assert any(reason in found for found in reasons(space).values()), reasons(space)


def test_writes_through_views_freeze():
    layers = dict(a=conv(3, 5), b=conv(3, 3), c=conv(8, 6), out=conv(6, 2))
    frozen_and_searched(write_slice, {'c': 6}, 'writes through a view', **layers)


def test_additions_through_views():
    """The first three channels of a follow b; what is left of a is free, were it not for the slice's end."""
    frozen_and_searched(write_add, {'a#2': 4}, '', a=conv(3, 7), b=conv(3, 3), out=conv(7, 2))


def test_a_convolution_weight_that_is_computed_from_activations_freezes():
    frozen_and_searched(
        lambda n, x: n.out(n.c(F.conv2d(n.a(x), n.b(x).mean((2, 3)).view(5, 6, 1, 1)))),
        {'c': 4},
        'computed from activations',
        a=conv(3, 6), b=conv(3, 30), c=conv(5, 4), out=conv(4, 2),
    )  # fmt: skip


def test_unread_channels_freeze():
    """Six channels of a go to b; the other ten are dropped, and the slice has a fixed end."""
    frozen_and_searched(
        lambda n, x: n.out(n.b(n.a(x)[:, :6])),
        {'b': 5},
        'read by no weight',
        a=conv(3, 16),
        b=conv(6, 5),
        out=conv(5, 2),
    )


def test_a_fixed_slice_leaves_the_rest_searchable():
    """x[:, :6] fixes the first six channels; x[:, 6:] takes whatever follows."""
    frozen_and_searched(
        lambda n, x: n.out(torch.cat([n.b(n.a(x)[:, :6]), n.c(n.a(x)[:, 6:])], 1)),
        {'a#2': 10, 'b': 3, 'c': 2},
        'does not run',
        a=conv(3, 16), b=conv(6, 3), c=conv(10, 2), out=conv(5, 2),
    )  # fmt: skip


def test_a_slice_that_ends_in_the_middle_by_chance():
    """It looks like a half: both halves shrink alike, or would, if the slice did not have a fixed end."""
    frozen_and_searched(
        lambda n, x: n.out(torch.cat([n.b(n.a(x)[:, :8]), n.c(n.a(x)[:, 8:])], 1)),
        {'b': 3, 'c': 2},
        'does not run',
        a=conv(3, 16), b=conv(8, 3), c=conv(8, 2), out=conv(5, 2),
    )  # fmt: skip


def test_parts_of_a_view_beside_channels_of_fixed_number_freeze():
    """x has three channels; with three of a they are viewed as two parts."""
    frozen_and_searched(
        lambda n, x: n.out(n.b(torch.cat([n.a(x), x], 1).unflatten(1, (2, -1)).sum(1))),
        {'b': 5},
        'viewed as one of several parts beside channels of fixed number',
        a=conv(3, 3), b=conv(3, 5), out=conv(5, 2),
    )  # fmt: skip


def test_parts_of_a_view_shrink_alike():
    def run(net, x):
        first, second = net.a(x).view(1, 2, -1, 4, 4).unbind(1)
        return net.out(torch.cat([net.b(first), net.c(second)], 1))

    layers = dict(a=conv(3, 8), b=conv(4, 3), c=conv(4, 2), out=conv(5, 2))
    assert sizes(space_of(Net(run, **layers), image())) == {'a': 4, 'b': 3, 'c': 2}


def test_weights_shared_between_modules():
    net = Net(lambda n, x: n.out(n.b(n.a(n.c(x)))), c=conv(3, 4), a=conv(4, 4), b=conv(4, 4), out=conv(4, 2))
    net.b.weight = net.a.weight
    # One weight, two calls: c, a and b are one unit, as both ends of the weight are the same stream.
    assert sizes(space_of(net, image())) == {'c': 4}


def test_a_weight_used_in_two_ways_freezes():
    """The output side of one layer is the input side of another: transposed tying."""
    net = Net(lambda n, x: n.out(F.linear(n.a(x), n.a.weight.t())), a=nn.Linear(3, 6), out=nn.Linear(3, 2))
    space = space_of(net, torch.rand(2, 3))
    assert sizes(space) == {}
    assert "is used both as 'out' and as 'in'" in str(reasons(space))


def axes_of(space):
    return {(axis.parameter, axis.dim): (axis.role, axis.elements[:, 0].tolist()) for axis in space.axes}


def test_axes_of_a_chain():
    layers = dict(a=conv(3, 2), bn=nn.BatchNorm2d(2), dw=conv(2, 4, groups=2), out=nn.Linear(16, 5))
    net = Net(lambda n, x: n.out(n.dw(n.bn(n.a(x))).flatten(1)), **layers)
    assert axes_of(space_of(net, image(size=2))) == {
        ('a.weight', 0): ('out', [0, 1]),
        ('a.bias', 0): ('through', [0, 1]),
        ('bn.weight', 0): ('through', [0, 1]),
        ('bn.bias', 0): ('through', [0, 1]),
        ('bn.running_mean', 0): ('through', [0, 1]),
        ('bn.running_var', 0): ('through', [0, 1]),
        ('dw.weight', 0): ('through', [0, 0, 1, 1]),
        ('dw.bias', 0): ('through', [0, 0, 1, 1]),
        ('out.weight', 1): ('in', [0] * 8 + [1] * 8),
    }


def test_axes_of_padded_channels():
    net = Net(lambda n, x: n.out(F.pad(n.a(x), (0, 0, 0, 0, 1, 2))), a=conv(3, 2, bias=False), out=conv(5, 4))
    assert axes_of(space_of(net, image())) == {
        ('a.weight', 0): ('out', [0, 1]),
        ('out.weight', 1): ('in', [-1, 0, 1, -1, -1]),
    }


def test_axes_of_a_layer_scale():
    layers = dict(a=conv(3, 2, bias=False), gamma=nn.Parameter(torch.rand(1, 2, 1, 1)), out=conv(2, 4))
    net = Net(lambda n, x: n.out(n.a(x) * n.gamma), **layers)
    assert axes_of(space_of(net, image()))['gamma', 1] == ('through', [0, 1])


def test_a_buffer_follows_what_it_meets():
    net = Net(lambda n, x: n.out(n.a(x) - n.mean), a=conv(3, 6), out=conv(6, 4))
    net.register_buffer('mean', torch.rand(6, 1, 1))
    space = space_of(net, image())
    assert sizes(space) == {'a': 6}
    assert axes_of(space)['mean', 0] == ('through', list(range(6)))


@pytest.mark.parametrize('option', ['add_bias_kv', 'add_zero_attn'])
def test_attention_with_a_key_of_its_own(option):
    """As many queries as tokens, but one key and value more: what attention gives out is as long as the queries."""
    attention = nn.MultiheadAttention(6, 2, batch_first=True, **{option: True})

    def run(net, x):
        x = net.a(x).flatten(2).mT
        return net.out(x + net.attention(x, x, x, need_weights=False)[0])

    space = space_of(Net(run, a=conv(3, 6), attention=attention, out=nn.Linear(6, 2)), image())
    assert 'attention' in ''.join(reasons(space))


def test_nothing_joined_with_nothing():
    """Lists of boxes, say, of an image without any."""
    model = Net(
        lambda net, x: (net.b(net.a(x)), torch.cat([x.new_zeros(0), x.new_zeros(0)])), a=conv(3, 4), b=conv(4, 2)
    )
    space = build_search_space(model, torch.rand(1, 3, 4, 4))
    assert [unit.total for unit in space.units] == [4]
