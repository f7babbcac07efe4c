"""Which parameters end the branches of blocks, in small blocks whose answer shows on paper; and what a fold does."""

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, random_mask
from torch import nn

from mmdms import build_search_space
from mmdms.masks.channel_masks import Masks


class Block(nn.Module):
    """A block of named layers and a function ``forward(block, x)``."""

    def __init__(self, run, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def network(make, relu=True):
    """A stem and two blocks; the stem's output is not negative on request."""
    torch.manual_seed(0)
    last = nn.ReLU() if relu else nn.Identity()
    layers = dict(stem=conv(3, 4), last=last, blocks=nn.Sequential(make(), make()), out=nn.Linear(64, 2))
    return Net(lambda n, x: n.out(n.blocks(n.last(n.stem(x))).flatten(1)), **layers)


def ends_of(make, **kwargs):
    """Ends of the branches of the first block, without its name; None where it is gated as a whole."""
    model = network(make, **kwargs)
    space = build_search_space(model, image())
    assert any('blocks.0' in group for group in space.blocks.values()), 'no block could be removed'
    found = space.branches.get('blocks.0')
    return None if found is None else [name.removeprefix('blocks.0.') for name in found]


def scaled(run, size=4, shape=(4, 1, 1), **layers):
    block = Block(run, **layers)
    block.scale = nn.Parameter(torch.rand(shape))
    return block


SHARED = conv(4, 4)
FOLDED = {
    'convolution': (lambda: Block(lambda b, x: x + b.c(x), c=conv(4, 4)), ['c.bias', 'c.weight']),
    'no bias': (lambda: Block(lambda b, x: b.c(x) + x, c=conv(4, 4, bias=False)), ['c.weight']),
    'norm': (
        lambda: Block(lambda b, x: F.relu(b.n(b.c(x)) + x), c=conv(4, 4), n=nn.BatchNorm2d(4)),
        ['n.bias', 'n.weight'],
    ),
    'in place': (
        lambda: Block(lambda b, x: F.relu_(b.n(b.c(x)).add_(x)), c=conv(4, 4), n=nn.BatchNorm2d(4)),
        ['n.bias', 'n.weight'],
    ),
    'layer scale': (lambda: scaled(lambda b, x: x + b.scale * b.c(x), c=conv(4, 4)), ['scale']),
    'moved': (
        lambda: Block(lambda b, x: x + b.l(x.flatten(2).mT).mT.view_as(x), l=nn.Linear(4, 4)),
        ['l.bias', 'l.weight'],
    ),
    'two branches': (
        lambda: Block(lambda b, x: b.two(y := x + b.one(x)) + y, one=conv(4, 4), two=conv(4, 4)),
        ['one.bias', 'one.weight', 'two.bias', 'two.weight'],
    ),
    'parallel': (
        lambda: Block(lambda b, x: F.relu(b.one(x) + b.two(x) + x), one=conv(4, 4), two=conv(4, 4, bias=False)),
        ['one.bias', 'one.weight', 'two.weight'],
    ),
    'gated branch': (
        lambda: Block(
            lambda b, x: x + (y := b.c(x)) * torch.sigmoid(b.gate(y.mean((2, 3), keepdim=True))),
            c=conv(4, 4), gate=conv(4, 4),
        ),
        ['c.bias', 'c.weight'],
    ),
}  # fmt: skip
WHOLE = {
    'activation': lambda: Block(lambda b, x: x + F.silu(b.c(x)), c=conv(4, 4)),
    'norm without scale': lambda: Block(lambda b, x: x + b.n(b.c(x)), c=conv(4, 4), n=nn.BatchNorm2d(4, affine=False)),
    'called twice': lambda: Block(lambda b, x: x + b.c(F.relu(b.c(x))), c=conv(4, 4)),
    'shared by blocks': lambda: Block(lambda b, x: x + b.c(x), c=SHARED),
    'constant added': lambda: Block(lambda b, x: x + (b.c(x) + 1.0), c=conv(4, 4)),
    'stream scaled': lambda: Block(lambda b, x: (x + b.c(x)) * 0.5 + x * 0.5, c=conv(4, 4)),
    'another activation': lambda: Block(lambda b, x: F.hardtanh(x + b.c(x)), c=conv(4, 4)),
}


@pytest.mark.parametrize('name', FOLDED)
def test_ends_of_branches(name):
    make, expected = FOLDED[name]
    assert ends_of(make) == expected


@pytest.mark.parametrize('name', WHOLE)
def test_gated_as_a_whole(name):
    assert ends_of(WHOLE[name]) is None


def test_an_activation_of_the_stream_needs_an_input_that_is_not_negative():
    def make():
        return Block(lambda b, x: F.relu(b.c(x) + x), c=conv(4, 4))

    assert ends_of(make) == ['c.bias', 'c.weight']
    # Removed, the first block would hand on what a ReLU cuts; and the second one too, once the first is gone.
    space = build_search_space(network(make, relu=False), image())
    assert len(space.blocks) == 2 and not space.branches


@pytest.mark.parametrize('name', FOLDED)
def test_folded_gates_are_exact_at_both_ends(name):
    model = network(FOLDED[name][0])
    space = build_search_space(model, image())
    model.double()
    x = image().double()
    expected = {0.0: model.out(model.last(model.stem(x)).flatten(1)), 1.0: model(x)}
    masks = Masks(model, space)
    for value, output in expected.items():
        values = torch.ones(space.num_elements, dtype=torch.float64)
        values[list(space.blocks)] = value
        masks.set(values.requires_grad_())  # as in training: no shortcut for blocks that are gone
        torch.testing.assert_close(model(x), output, rtol=1e-12, atol=1e-12)


def test_gradient_of_a_folded_gate_with_a_mask_in_the_same_weight():
    """``x + m W diag(c) relu(V x)``, written out."""

    def make():
        return Block(lambda b, x: x + b.w(F.relu(b.v(x))), v=conv(4, 3), w=conv(3, 4))

    model = network(make)
    space = build_search_space(model, image())
    assert len(space.branches) == 2
    model.double()
    values = torch.rand(space.num_elements, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parts = {u.name: slice(o, o + u.total) for u, o in zip(space.units, space.offsets, strict=True)}

    def by_hand(values, x):
        channels = values[parts['stem']].view(1, -1, 1, 1)
        x = F.relu(model.stem(x))
        for i, block in enumerate(model.blocks):
            inner = values[parts[f'blocks.{i}.v']].view(1, -1, 1, 1)
            x = x + values[parts['blocks']][i] * block.w(F.relu(block.v(x * channels)) * inner)
        return model.out((x * channels).flatten(1))

    hand, found = values.clone().requires_grad_(), values.clone().requires_grad_()
    expected = by_hand(hand, image().double())
    expected.square().sum().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    Masks(model, space).set(found)
    output = model(image().double())
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    torch.testing.assert_close(found.grad, hand.grad)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_a_block_whose_fold_is_wrong_is_gated_as_a_whole():
    """It reads its weight past the attribute, in a way that the trace cannot tell: only its bias would be gated."""

    class Sly(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self._parameters['weight'], self.bias)

    def make():
        return Block(lambda b, x: x + b.c(F.relu(b.v(x))), v=conv(4, 3), c=Sly(3, 4, 1))

    space = build_search_space(network(make), image())
    assert len(space.blocks) == 2, 'a wrong fold must not cost the block'
    assert not space.branches


def test_known_gates_need_no_gradient():
    make, _ = FOLDED['norm']
    for mode in (make, WHOLE['activation']):
        model = network(mode)
        space = build_search_space(model, image())
        masks = Masks(model, space)
        first, second = space.blocks
        values = random_mask(space, 1).float()
        values[first], values[second] = 0.0, 1.0
        leaf = values.clone().requires_grad_()
        masks.set(leaf, known={first: 0.0, second: 1.0})
        found = model(image())
        found.sum().backward()
        assert leaf.grad[first] == leaf.grad[second] == 0 and int(leaf.grad.count_nonzero()) > 0
        # The block that is gone has gradients, of 0; the other one real ones.
        assert all(not p.grad.any() for p in model.blocks[0].parameters())
        assert all(p.grad is not None for p in model.blocks[1].parameters())
        masks.set(values)
        torch.testing.assert_close(model(image()), found)
