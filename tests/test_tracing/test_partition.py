"""Nothing vanishes from the report: what is not searched is frozen for a reason that is listed."""

import pytest
import torch
import torch.nn.functional as F
from helpers.partitioned import assert_partition
from helpers.tiny import Net, conv, image, remarkable, sizes
from torch import nn
from torch.nn.utils import parametrizations

from mmdms.api import build_search_space
from mmdms.space.structure import Structure, UnitInfo
from mmdms.tracing.partition import counts, partition
from mmdms.verification.verifier import freeze_units


class EfficientAttention(nn.Module):
    """ECA: a convolution over channels, which ties them all."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        weights = self.mix(x.mean((2, 3))[:, None])
        return x * weights.sigmoid()[:, 0, :, None, None]


class Tokens(nn.Module):
    """An embedding, positions that are learnt, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.position = nn.Embedding(11, 8), nn.Parameter(torch.rand(5, 8))
        self.first, self.out = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, tokens):
        return self.out(F.relu(self.first(self.embedding(tokens) + self.position)))


class Recurrent(nn.Module):
    """A recurrent layer that reads the input, and two linear layers."""

    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.first, self.out = kind(3, 4, batch_first=True), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(F.relu(self.first(self.recurrent(x)[0])))


def between(middle, width=8):
    """A layer between two convolutions, and an output."""
    return nn.Sequential(conv(3, 8, 3), middle, conv(width, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2))


def weight_normed():
    return between(parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)))


def transformer():
    return nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))


def with_idle_parts():
    def run(net, x):
        return net.out(F.relu(net.first(x)))

    head = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    net = Net(run, first=conv(3, 6), out=conv(6, 2), auxiliary_head=head)
    net.token = nn.Parameter(torch.zeros(1, 7))
    return net


def sequence(channels=3):
    return torch.rand(1, 5, channels)


NETWORKS = {
    'plain': (lambda: between(conv(8, 8, 3)), image),
    'depthwise, grouped, transposed': (
        lambda: nn.Sequential(
            conv(3, 8), conv(8, 16, 3, groups=8), conv(16, 8, groups=2), nn.ConvTranspose2d(8, 4, 2, 2), conv(4, 2)
        ),
        image,
    ),
    'grouped and transposed': (lambda: between(nn.ConvTranspose2d(8, 8, 2, 2, groups=2)), image),
    'weight norm': (weight_normed, image),
    'spectral norm': (lambda: between(parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))), image),
    'channels tied by an attention': (lambda: between(EfficientAttention()), image),
    'channels tied by a local norm': (lambda: between(nn.LocalResponseNorm(3)), image),
    'a single channel': (lambda: between(conv(8, 1), 1), image),
    'embedding': (Tokens, lambda: torch.arange(5)[None]),
    'LSTM': (lambda: Recurrent(nn.LSTM), sequence),
    'GRU': (lambda: Recurrent(nn.GRU), sequence),
    'idle parts': (with_idle_parts, image),
    'layer norm over an image': (lambda: between(nn.LayerNorm([8, 4, 4])), image),
    'group norm': (lambda: between(nn.GroupNorm(2, 8)), image),
    'transformer': (transformer, sequence),
}  # fmt: skip


@pytest.fixture(scope='module', params=NETWORKS)
def network(request):
    """A network, its example, and its search space as traced."""
    torch.manual_seed(0)
    make, example = NETWORKS[request.param]
    model, inputs = make(), example()
    return model, inputs, build_search_space(model, inputs, verify=False)


def test_nothing_vanishes(network):
    model, example, space = network
    assert_partition(model, space)
    assert_partition(model, build_search_space(model, example))


def test_nothing_vanishes_where_patterns_leave_layers_out(network):
    model, example, space = network
    left_out = space.units[0].name
    smaller = build_search_space(model, example, exclude=[left_out], verify=False)
    assert any('left out' in frozen.reason for frozen in smaller.frozen)
    assert_partition(model, smaller)


def test_nothing_vanishes_when_verification_freezes_units(network):
    model, _, space = network
    for faults in ({0: 'first'}, {len(space.units) - 1: 'last'}, dict.fromkeys(range(len(space.units)), 'every one')):
        smaller = freeze_units(space, faults)
        found = assert_partition(model, smaller)
        said = {reason.reason for dimension in found.values() for reason in dimension.reasons}
        assert set(faults.values()) <= said
    assert smaller.units == [] and counts(partition(model, smaller))['searched'] == 0


def states(model, example):
    """State and reasons of every dimension."""
    found = assert_partition(model, build_search_space(model, example))
    return {key: (d.state, *(f'{r.module}: {r.reason}' for r in d.reasons)) for key, d in found.items()}


def test_a_plain_network_by_hand():
    found = states(between(conv(8, 8, 3)), image())
    image_of, output = '0: reads an input of the network or a constant', '5: reaches an output of the network'
    assert found == {
        ('0.weight', 0): ('searched',), ('0.weight', 1): ('frozen', image_of),
        ('0.weight', 2): ('kernel',), ('0.weight', 3): ('kernel',), ('0.bias', 0): ('follows',),
        ('1.weight', 0): ('searched',), ('1.weight', 1): ('follows',),
        ('1.weight', 2): ('kernel',), ('1.weight', 3): ('kernel',), ('1.bias', 0): ('follows',),
        ('2.weight', 0): ('searched',), ('2.weight', 1): ('follows',),
        ('2.weight', 2): ('kernel',), ('2.weight', 3): ('kernel',), ('2.bias', 0): ('follows',),
        ('3.weight', 0): ('follows',), ('3.bias', 0): ('follows',),
        ('5.weight', 0): ('frozen', output), ('5.weight', 1): ('follows',), ('5.bias', 0): ('frozen', output),
    }  # fmt: skip


def test_an_embedding_is_listed():
    found = states(Tokens(), torch.arange(5)[None])
    # A row is looked up as a whole: what is looked up has the channels of the table.
    assert found['embedding.weight', 0][0] == 'frozen' and found['embedding.weight', 1] == ('searched',)
    assert found['position', 0] == ('frozen', ': no channel lies along dimension 0 of position')
    assert found['position', 1] == found['first.weight', 1] == ('follows',)
    assert found['first.weight', 0] == ('searched',)


@pytest.mark.parametrize('kind', [nn.LSTM, nn.GRU])
def test_a_leading_recurrent_layer_is_listed(kind):
    found = states(Recurrent(kind), sequence())
    own = [state for (name, _), state in found.items() if name.startswith('recurrent.')]
    assert len(own) == 6 and {state for state, *_ in own} == {'frozen'}
    # The layer behind it reads a width that the recurrent layer fixed: the reason is of that layer.
    state, reason = found['first.weight', 1]
    assert state == 'frozen' and reason.startswith('recurrent: ')


@pytest.mark.parametrize('middle', [EfficientAttention, lambda: nn.LocalResponseNorm(3)], ids=['ECA', 'LRN'])
def test_channels_that_are_one_element_are_frozen_and_no_unit(middle):
    model = between(middle())
    space = build_search_space(model, image())
    assert sizes(space) == {'2': 6}
    assert [(f.module, f.reason, f.elements) for f in remarkable(space)] == [
        ('0', 'its 8 channels can only go or stay together', 8)
    ]
    assert_partition(model, space)


def test_a_single_channel_is_frozen_and_no_unit():
    space = build_search_space(between(conv(8, 1), 1), image())
    assert sizes(space) == {'0': 8, '2': 6}
    assert [(f.module, f.reason) for f in remarkable(space)] == [('1', 'is a single channel, and one must stay')]


def test_structures_that_name_units_of_one_element_still_fit():
    """A search of an earlier mmdms lists them: such a unit keeps its element, and says nothing."""
    units = [UnitInfo('a', 'channels', 4)]
    Structure([*units, UnitInfo('b', 'heads', 1)], [[0, 2], [0]]).check(units)


def test_idle_parts_are_listed_under_the_largest_that_is_idle():
    space = build_search_space(with_idle_parts(), image())
    # 6 x 4 of the convolution and its bias of 4, 4 x 2 of the layer and its bias of 2: their dimensions are counted.
    assert [(f.module, f.reason, f.elements) for f in space.frozen if 'used' in f.reason] == [
        ('', 'token is used by no operation that the trace sees', 7),
        ('auxiliary_head', 'is not used by the traced call', (6 + 4 + 4) + (4 + 2 + 2)),
    ]


def test_extents_of_a_computed_kernel_are_no_channels():
    found = states(weight_normed(), image())
    name = '1.parametrizations.weight.original1'
    assert found[name, 2] == found[name, 3] == ('kernel',)


def test_what_is_partly_searched_says_why_the_rest_stays():
    """Channels of the image beside those of a layer: the layer that reads both may lose the latter."""
    net = Net(lambda n, x: n.out(n.both(torch.cat([x, n.a(x)], 1))), a=conv(3, 4), both=conv(7, 6), out=conv(6, 2))
    found = assert_partition(net, build_search_space(net, image()))
    dimension = found['both.weight', 1]
    assert (dimension.state, dimension.size, dimension.kept) == ('follows', 7, 3)
    assert [reason.module for reason in dimension.reasons] == ['both']
