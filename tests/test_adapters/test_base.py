"""The registry of adapters, and what an adapter of the user's may and may not do."""

import copy

import pytest
import torch
from helpers.tiny import Net, assert_parity, conv, image, reasons, sizes, space_of
from torch import nn

from mmdms.adapters.base import Adapter, adapt, adapters_of, forward_adapter, unadapt
from mmdms.adapters.norms import LayerNormAdapter
from mmdms.api import build_search_space
from mmdms.errors import AdapterError
from mmdms.masks.channel_masks import Masks
from mmdms.registry import ADAPTERS


class Attention(nn.Module):
    """Heads and their width are written into the forward."""

    def __init__(self, dims=12, heads=3):
        super().__init__()
        self.heads, self.dims = heads, dims // heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dims, dims) for _ in range(4))

    def forward(self, x):
        parts = (layer(x).view(1, -1, self.heads, self.dims).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k, v = parts
        mixed = (q @ k.mT * 0.5).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(1, -1, self.heads * self.dims))


class AttentionAdapter(Adapter):
    adapts = Attention

    def setup(self):
        self.qk_dims = self.v_dims = self.dims

    def forward(self, x):
        q, k = (self.split_heads(layer(x), 'heads', 'qk_dims').transpose(1, 2) for layer in (self.q, self.k))
        v = self.split_heads(self.v(x), 'heads', 'v_dims').transpose(1, 2)
        q, k = self.contract('query', q, k)
        return self.proj(((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Splitting(nn.Module):
    """A split by an attribute."""

    def __init__(self):
        super().__init__()
        self.mid = 2
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        x = self.layer(x)
        return torch.cat([x[..., : self.mid].relu(), x[..., self.mid :]], -1)


class SplittingAdapter(Adapter):
    adapts = f'{__name__}.Splitting'

    def forward(self, x):
        first, second = self.layer(x).split([self.mid, self.layer.out_features - self.mid], -1)
        self.sized('mid', first, -1)
        return torch.cat([first.relu(), second], -1)


@pytest.fixture
def register():
    """Register adapters for one test."""
    before = dict(ADAPTERS.module_dict)
    yield lambda *adapters: [ADAPTERS.register_module(module=adapter) for adapter in adapters]
    ADAPTERS._module_dict.clear()
    ADAPTERS._module_dict.update(before)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net(
        lambda n, x: n.out(n.attention(n.a(x))), a=nn.Linear(5, 12), attention=Attention(), out=nn.Linear(12, 3)
    )


def tokens():
    return torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0))


def test_without_an_adapter_heads_are_searched_and_their_width_stays(net):
    """Views and the product of queries and keys show the heads; the attribute that counts them is found."""
    space = space_of(net, tokens())
    assert sizes(space) == {'a': 12, 'attention.heads': 3, 'attention.proj': 12}
    assert reasons(space) == {}


def test_with_an_adapter_heads_and_widths_are_searched(net, register):
    register(AttentionAdapter)
    space = space_of(net, tokens())
    assert [(u.name, u.kind, u.total) for u in space.units] == [
        ('a', 'channels', 12),
        ('attention.heads', 'heads', 3),
        ('attention.qk_dims', 'channels', 4),
        ('attention.v_dims', 'channels', 4),
        ('attention.proj', 'channels', 12),
    ]
    assert reasons(space) == {}
    # 5 * 12 in a; qkv: 12 * 3 * 12; attention of 4 tokens: 2 * 4 * 4 * 12; proj 12 * 12, out 12 * 3; per token.
    assert space.cost('flops', torch.ones(space.num_elements)) == 4 * (60 + 432 + 144 + 36) + 384
    # One of each: 5 + 3 + 1 + 3 per token, and 2 * 4 * 4.
    assert space.cost('flops', space.minimum_mask()) == 4 * (5 + 3 + 1 + 3) + 32


def test_the_sliced_module_is_of_its_own_class_and_size(net, register):
    from mmdms.slicing.slim import slim

    register(AttentionAdapter)
    space = build_search_space(net, tokens())
    mask = torch.ones(space.num_elements, dtype=torch.bool)
    begin = dict(zip([u.name for u in space.units], space.offsets, strict=True))
    mask[begin['attention.heads'] + 1] = False
    mask[begin['attention.qk_dims'] : begin['attention.qk_dims'] + 3] = False
    subnet = slim(net, space, space.structure(mask))
    attention = subnet.attention
    assert isinstance(attention, Attention) and (attention.heads, attention.qk_dims, attention.v_dims) == (2, 1, 4)
    assert attention.q.weight.shape == (2, 12) and attention.v.weight.shape == (8, 12)
    # Head 1 is rows 4 to 7 of the values; the width that stays is the last of every head.
    torch.testing.assert_close(attention.v.weight, net.attention.v.weight[[0, 1, 2, 3, 8, 9, 10, 11]])
    torch.testing.assert_close(attention.q.weight, net.attention.q.weight[[3, 11]])
    assert type(net.attention) is Attention, 'the network itself is not changed'


def test_masks_have_gradients(net, register):
    register(AttentionAdapter)
    space = build_search_space(net, tokens())
    masks = Masks(net, space)
    values = torch.full((space.num_elements,), 0.5, requires_grad=True)
    masks.set(values)
    net(tokens()).square().sum().backward()
    assert bool((values.grad != 0).all())


def test_a_split_by_an_attribute(register):
    net = Net(lambda n, x: n.out(n.middle(n.a(x))), a=nn.Linear(5, 6), middle=Splitting(), out=nn.Linear(6, 3))
    without = space_of(net, tokens())
    register(SplittingAdapter)
    assert sizes(without) == sizes(space_of(net, tokens())) == {'a': 6, 'middle.layer': 2, 'middle.layer#2': 4}


def test_an_adapter_that_computes_something_else_is_an_error(net, register):
    class WrongAdapter(AttentionAdapter):
        def forward(self, x):
            return super().forward(x) + 1

    register(WrongAdapter)
    with pytest.raises(AdapterError, match=r'WrongAdapter does not compute what .*Attention.* differ by'):
        build_search_space(net, tokens())


def test_a_subclass_with_a_forward_of_its_own_is_not_adapted(register):
    class Other(Attention):
        def forward(self, x):
            return x

    class Same(Attention):
        pass

    register(AttentionAdapter)
    assert forward_adapter(Same) == (AttentionAdapter, Attention) and forward_adapter(Other) is None
    assert list(adapters_of(Other)) == [AttentionAdapter]  # its attributes are kept up to date all the same


def test_adapters_for_masks_go_with_them():
    norm = nn.LayerNorm(6)
    net = Net(lambda n, x: n.out(n.norm(n.a(x))), a=nn.Linear(5, 6), norm=norm, out=nn.Linear(6, 3))
    adapt(net)
    assert type(norm) is nn.LayerNorm
    adapt(net, masked=True, undoable=True)
    assert isinstance(norm, LayerNormAdapter) and isinstance(norm, nn.LayerNorm)
    unadapt(net)
    assert type(norm) is nn.LayerNorm


def test_an_adapted_network_can_be_copied_and_adapted_again(net, register):
    register(AttentionAdapter)
    adapt(net)
    net.attention.heads = 2  # as if it had been sliced: setup must not run again
    copied = copy.deepcopy(net)
    adapt(copied)
    assert copied.attention.heads == 2 and isinstance(copied.attention, AttentionAdapter)


def test_a_layer_norm_over_masked_channels_is_that_of_the_sliced_one():
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.out(n.norm(n.a(x).permute(0, 2, 3, 1))), a=conv(3, 6), norm=nn.LayerNorm(6), out=nn.Linear(6, 2)
    ).double()
    space = build_search_space(net, image().double())
    mask = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.float64)
    y = net.a(image().double()).permute(0, 2, 3, 1)[..., mask.bool()]
    mean, var = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
    expected = torch.nn.functional.linear(
        (y - mean) / (var + 1e-5).sqrt(), net.out.weight[:, mask.bool()], net.out.bias
    )
    Masks(net, space).set(mask)
    torch.testing.assert_close(net(image().double()), expected)
    assert_parity(net, space, image())
