import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, assert_parity, conv, image, reasons, sizes, space_of
from torch import nn

from mmdms.adapters.base import Adapter
from mmdms.api import build_search_space
from mmdms.errors import ConfigError
from mmdms.registry import ADAPTERS
from mmdms.slicing.slim import slim


class Block(nn.Module):
    """x + b(relu(a(x))), over ``width`` channels."""

    def __init__(self, width=4, inner=3):
        super().__init__()
        self.a = conv(width, inner)
        self.b = conv(inner, width)

    def forward(self, x):
        return x + self.b(F.relu(self.a(x)))


class Inplace(Block):
    def forward(self, x):
        return x.add_(self.b(self.a(x)))


class WithoutIdentity(Block):
    def forward(self, x):
        return self.b(self.a(x))


class Gated(Block):
    """The identity path runs through a product, which changes it."""

    def forward(self, x):
        return x * torch.sigmoid(self.b(self.a(x)))


def stage(*blocks):
    return Net(lambda n, x: n.out(n.blocks(n.stem(x))), stem=conv(3, 4), blocks=nn.Sequential(*blocks), out=conv(4, 2))


def depth_units(space):
    return {unit.name: unit.total for unit in space.units if unit.kind == 'depth'}


def test_a_run_of_residual_blocks():
    net = stage(Block(), Block(), Block())
    space = space_of(net, image())
    assert depth_units(space) == {'blocks': 3}
    assert list(space.blocks.values()) == [('blocks.0',), ('blocks.1',), ('blocks.2',)]
    assert sizes(space) == {'stem': 4, 'blocks.0.a': 3, 'blocks.1.a': 3, 'blocks.2.a': 3, 'blocks': 3}


def test_blocks_in_a_list_that_the_forward_walks():
    net = Net(
        lambda n, x: n.out(n.blocks[1](n.blocks[0](n.stem(x)))),
        stem=conv(3, 4),
        blocks=nn.ModuleList([Block(), Block()]),
        out=conv(4, 2),
    )
    assert depth_units(space_of(net, image())) == {'blocks': 2}


def test_one_container_with_two_widths_is_two_runs():
    net = Net(
        lambda n, x: n.out(n.blocks(n.stem(x))),
        stem=conv(3, 4),
        blocks=nn.Sequential(Block(4), conv(4, 5), Block(5), Block(5)),
        out=conv(5, 2),
    )
    assert depth_units(space_of(net, image())) == {'blocks': 1, 'blocks#2': 2}


@pytest.mark.parametrize('kind', [WithoutIdentity, Gated])
def test_a_block_without_an_unchanged_path_stays(kind):
    assert depth_units(space_of(stage(Block(), kind()), image())) == {'blocks': 1}


def test_a_block_without_a_weight_stays():
    assert depth_units(space_of(stage(nn.ReLU(), Block(), nn.Identity()), image())) == {'blocks': 1}


def test_the_activation_after_the_sum_may_write_in_place():
    class Leaky(Block):
        def forward(self, x):
            return F.leaky_relu_(super().forward(x))

    assert depth_units(space_of(stage(Leaky(), Leaky()), image())) == {'blocks': 2}


class Depthwise(nn.Module):
    """x + dw(x)."""

    def __init__(self, width=4):
        super().__init__()
        self.dw = conv(width, width, 3, groups=width)

    def forward(self, x):
        return x + self.dw(x)


def test_depthwise_blocks_alone_in_their_containers_are_one_run():
    def layer():
        return nn.Sequential(Depthwise(), conv(4, 4), nn.ReLU())

    space = space_of(stage(layer(), layer(), layer()), image())
    assert depth_units(space) == {'blocks': 3}
    assert list(space.blocks.values()) == [('blocks.0.0',), ('blocks.1.0',), ('blocks.2.0',)]


def test_blocks_of_several_shapes_alone_in_their_containers_are_runs_of_their_own():
    layers = nn.Sequential(Block(), conv(4, 4)), nn.Sequential(Block(), nn.MaxPool2d(2)), nn.Sequential(Block())
    assert depth_units(space_of(stage(*layers), image())) == {'blocks': 2, 'blocks.2': 1}


def test_a_depthwise_block_within_another_block_does_not_stand_for_it():
    class Outer(Block):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(Depthwise())

        def forward(self, x):
            return super().forward(self.layers(x))

    assert depth_units(space_of(stage(Outer(), Outer()), image())) == {'blocks': 2}


def test_only_the_innermost_blocks_are_removed():
    outer = nn.Sequential(Block(), Block())
    net = stage(outer, Block())
    # The outer Sequential has an identity path too, but holds smaller blocks.
    assert depth_units(space_of(net, image())) == {'blocks.0': 2, 'blocks': 1}


def test_a_block_called_twice_stays():
    block = Block()
    space = space_of(stage(block, Block(), block), image())
    assert depth_units(space) == {'blocks': 1}
    assert reasons(space)['blocks.0'] == 'the block stays: it is called 2 times; '


def test_a_block_called_first_with_another_shape_counts_both_calls():
    """Its first call halves the resolution, so that only the second looks removable."""

    class Shrinking(Block):
        def forward(self, x):
            y = x + self.b(self.a(x))
            return F.max_pool2d(y, 2) if y.size(-1) == 4 else y

    net = Net(
        lambda n, x: n.out(n.blocks[0](n.blocks[0](n.stem(x)))),
        stem=conv(3, 4),
        blocks=nn.ModuleList([Shrinking()]),
        out=conv(4, 2),
    )
    assert depth_units(space_of(net, image())) == {}


def test_a_block_that_writes_into_its_input_stays():
    space = space_of(stage(Block(), Inplace()), image())
    assert depth_units(space) == {'blocks': 1}
    assert reasons(space)['blocks.1'] == 'the block stays: it writes into its own input; '


def test_removing_every_block_is_the_identity_in_their_place():
    net = stage(Block(), Block()).double().eval()
    space = space_of(net, image().double())
    mask = torch.ones(space.num_elements, dtype=torch.bool)
    mask[list(space.blocks)] = False
    x = image().double()
    torch.testing.assert_close(slim(net, space, space.structure(mask))(x), net.out(net.stem(x)), rtol=0, atol=0)


def test_removing_one_block_leaves_the_others():
    net = stage(Block(), Block(), Block()).double().eval()
    space = space_of(net, image().double())
    mask = torch.ones(space.num_elements, dtype=torch.bool)
    (element,) = [e for e, group in space.blocks.items() if group == ('blocks.1',)]
    mask[element] = False
    x = image().double()
    expected = net.out(net.blocks[2](net.blocks[0](net.stem(x))))
    torch.testing.assert_close(slim(net, space, space.structure(mask))(x), expected, rtol=0, atol=0)


def test_a_removed_block_may_share_a_weight_with_one_that_stays():
    first, second = Block(), Block()
    second.a.weight = first.a.weight
    net = stage(first, second)
    space = space_of(net, image())
    assert depth_units(space) == {'blocks': 2}
    mask = torch.ones(space.num_elements, dtype=torch.bool)
    (element,) = [e for e, group in space.blocks.items() if group == ('blocks.0',)]
    mask[element] = False
    mask[:2] = False  # two channels of the stem
    assert slim(net, space, space.structure(mask)).blocks[1].a.weight.shape == (3, 2, 1, 1)


def test_patterns_select_blocks_and_layers():
    net = stage(Block(), Block(), Block())
    assert depth_units(space_of(net, image(), include=['blocks.1', 'stem'])) == {'blocks': 1}
    assert sizes(space_of(net, image(), exclude=['blocks'])) == {}
    space = space_of(net, image(), exclude=['stem', 'blocks.0.a', 'blocks.[12]'])
    # All blocks write to the stem's stream, which is left out; blocks.0 itself can still go.
    assert sizes(space) == {'blocks': 1}
    assert 'left out by include and exclude patterns' in reasons(space)['blocks.0.a']


def test_a_container_does_not_stand_for_blocks_that_are_left_out():
    net = stage(nn.Sequential(Block()), nn.Sequential(Block()))
    assert list(space_of(net, image(), exclude=['blocks.0.0']).blocks.values()) == [('blocks.1.0',)]


@pytest.mark.parametrize('key', ['include', 'exclude'])
def test_a_pattern_that_matches_nothing(key):
    with pytest.raises(ConfigError, match=f"{key} pattern 'bloks.*' matches no searchable layer or block"):
        build_search_space(stage(Block()), image(), **{key: ['stem', 'bloks.*']})


@pytest.mark.parametrize('value', ['stem', [1]])
def test_patterns_must_be_a_list_of_strings(value):
    with pytest.raises(ConfigError, match='exclude must be a list of patterns'):
        build_search_space(stage(Block()), image(), exclude=value)


def test_a_model_is_unchanged_by_tracing():
    net = stage(Block(), nn.BatchNorm2d(4))
    net.out.weight.requires_grad_(False)
    net.blocks[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    build_search_space(net, image())
    assert net.training and not net.blocks[1].training
    assert not net.out.weight.requires_grad and net.stem.weight.requires_grad
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_block_that_fails_verification_is_frozen_and_the_rest_stays():
    """The second block leaves a value behind that the network reads: with a pass-through it is not there."""

    class Noting(Block):
        def forward(self, x):
            self.noted = super().forward(x)
            return self.noted

    net = Net(
        lambda n, x: n.out(n.blocks(n.stem(x)) + n.blocks[1].noted),
        stem=conv(3, 4),
        blocks=nn.Sequential(Block(), Noting()),
        out=conv(4, 2),
    )
    space = build_search_space(net, image())
    assert depth_units(space) == {}
    assert 'AttributeError' in reasons(space)['blocks']
    assert sizes(space) == {'stem': 4, 'blocks.0.a': 3, 'blocks.1.a': 3}
    assert_parity(net, space, image())


class TwoStreams(nn.Module):
    """A block that takes and hands on two maps, and a number."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(4, 4), conv(3, 3)

    def forward(self, x, size, y):
        return x + self.a(x), size, y + self.b(y)


class Swapped(TwoStreams):
    """Each of both maps is added to something else."""

    def forward(self, x, size, y):
        return x + self.a(x), size, self.b(y)


@ADAPTERS.register_module()
class TwoStreamsAdapter(Adapter):
    adapts = TwoStreams
    streams = 3


class Undeclared(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = TwoStreams()

    def forward(self, x, size, y):
        return self.block(x, size, y)


@pytest.mark.parametrize('kind, blocks', [(TwoStreams, {'blocks': 2}), (Swapped, {}), (Undeclared, {})])
def test_blocks_with_several_streams(kind, blocks):
    def run(net, image):
        state = net.stem(image), 2, net.other(image)
        for block in net.blocks:
            state = block(*state)
        return net.out(torch.cat([state[0], state[2]], 1)) * state[1]

    layers = dict(stem=conv(3, 4), other=conv(3, 3), out=conv(7, 2))
    space = space_of(Net(run, blocks=nn.ModuleList([kind(), kind()]), **layers), image())
    assert depth_units(space) == blocks
    if kind is Undeclared:
        assert 'hands on 3 arguments' in reasons(space)['blocks.0']
