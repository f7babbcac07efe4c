import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, random_mask, space_of
from torch import nn

from mmdms.masks.channel_masks import MaskBank, MaskedWeight, Masks, remove_masks, without_masks


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(4, 3), conv(3, 4)

    def forward(self, x):
        return x + self.b(F.relu(self.a(x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = dict(stem=conv(3, 4), blocks=nn.Sequential(Block(), Block()), out=nn.Linear(64, 2))
    return Net(lambda n, x: n.out(n.blocks(n.stem(x)).flatten(1)), **layers)


def masked_by_hand(net, masks, x):
    """The network above with the masks of its units written out: channels at the input of every weight."""
    stem, inner, depth = masks['stem'], [masks['blocks.0.a'], masks['blocks.1.a']], masks['blocks']
    y = net.stem(x)
    for block, m, gate in zip(net.blocks, inner, depth):
        hidden = F.relu(F.conv2d(y, block.a.weight * stem.view(1, 4, 1, 1), block.a.bias))
        branch = F.conv2d(hidden, block.b.weight * m.view(1, 3, 1, 1), block.b.bias)
        y = y + gate * branch
    # Each channel of the 4x4 map fills 16 columns of the linear layer.
    return F.linear(y.flatten(1), net.out.weight * stem.repeat_interleave(16), net.out.bias)


def soft_masks(space):
    return torch.rand(space.num_elements, generator=torch.Generator().manual_seed(3))


def by_unit(space, values):
    return dict(zip([u.name for u in space.units], values.split([u.total for u in space.units])))


def test_masked_forward_equals_parameters_times_masks(net):
    space = space_of(net, image())
    values = soft_masks(space)
    expected = masked_by_hand(net, by_unit(space, values), image())
    masks = Masks(net, space)
    masks.set(values)
    torch.testing.assert_close(net(image()), expected)


def test_gradients_of_masks_and_weights(net):
    space = space_of(net, image())
    values = soft_masks(space).requires_grad_()
    other = values.detach().clone().requires_grad_()
    masked_by_hand(net, by_unit(space, other), image()).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    Masks(net, space).set(values)
    net(image()).square().sum().backward()
    torch.testing.assert_close(values.grad, other.grad)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_masks_of_ones_or_none_change_nothing(net):
    space = space_of(net, image())
    expected = net(image())
    masks = Masks(net, space)
    assert torch.equal(net(image()), expected)
    masks.set(torch.ones(space.num_elements))
    assert torch.equal(net(image()), expected)
    masks.set(None)
    assert torch.equal(net(image()), expected)


def test_names_and_values_of_parameters_stay(net):
    space = space_of(net, image())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = dict(net.named_parameters())
    Masks(net, space).set(soft_masks(space))
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter is parameters[name] for name, parameter in net.named_parameters())
    assert isinstance(net.out, nn.Linear) and type(net.out).__name__ == 'Linear'
    net.load_state_dict({name: value + 1 for name, value in before.items()}, strict=True)
    assert torch.equal(parameters['out.weight'], before['out.weight'] + 1)


def test_a_copy_in_the_middle_of_a_step(net):
    space = space_of(net, image())
    values = soft_masks(space).requires_grad_()
    masks = Masks(net, space)
    masks.set(values * 1.0)  # not a leaf: it hangs on a graph
    expected = net(image())
    copied = copy.deepcopy(net)
    torch.testing.assert_close(copied(image()), expected)
    # The copy has masks of its own.
    masks.set(None)
    torch.testing.assert_close(copied(image()), expected)
    assert not torch.allclose(net(image()), expected)


def test_removal(net):
    space = space_of(net, image())
    expected = net(image())
    classes = [type(m) for m in net.modules()]
    state = [set(m.__dict__) for m in net.modules()]
    masks = Masks(net, space)
    masks.set(soft_masks(space))
    assert [type(m) for m in net.modules()] != classes
    plain = without_masks(net)
    assert torch.equal(plain(image()), expected)
    assert not torch.allclose(net(image()), expected)
    masks.remove()
    assert [type(m) for m in net.modules()] == classes
    assert [set(m.__dict__) for m in net.modules()] == state
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(net(image()), expected)
    remove_masks(net)  # once more does no harm
    assert torch.equal(net(image()), expected)


def test_other_hooks_survive_removal(net):
    space = space_of(net, image())
    calls = []
    net.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    Masks(net, space).remove()
    net(image())
    assert calls == [1]


def test_a_weight_shared_between_modules_is_masked_in_both():
    shared = Net(lambda n, x: n.out(n.b(n.a(n.stem(x)))), stem=conv(3, 4), a=conv(4, 4), b=conv(4, 4), out=conv(4, 2))
    shared.b.weight = shared.a.weight
    space = space_of(shared, image())
    mask = random_mask(space, 1).float()
    assert 0 < mask.sum() < 4
    column = mask.view(1, 4, 1, 1)
    y = F.conv2d(shared.stem(image()), shared.a.weight * column, shared.a.bias)
    y = F.conv2d(y, shared.a.weight * column, shared.b.bias)
    expected = F.conv2d(y, shared.out.weight * column, shared.out.bias)
    Masks(shared, space).set(mask)
    torch.testing.assert_close(shared(image()), expected)


def test_masks_take_the_type_of_the_weight(net):
    space = space_of(net, image())
    masks = Masks(net.double(), space)
    masks.set(soft_masks(space))
    assert net(image().double()).dtype == torch.float64


def test_products_are_kept_in_evaluation_while_nothing_changes():
    bank = MaskBank()
    weight = nn.Parameter(torch.randn(4, 3))
    masked = MaskedWeight(bank, [(1, torch.tensor([[0], [1], [-1]]))], 2)
    bank.set(torch.tensor([1.0, 0.0]), token=1)
    with torch.no_grad():
        first = masked(weight)
        assert masked(weight) is first
        assert torch.equal(first, weight * torch.tensor([1.0, 0.0, 1.0]))
        weight.mul_(2)  # a step of the optimizer
        second = masked(weight)
        assert second is not first and torch.equal(second, 2 * first)
        bank.set(torch.tensor([0.0, 1.0]), token=2)
        assert torch.equal(masked(weight), weight * torch.tensor([0.0, 1.0, 1.0]))
        bank.set(torch.tensor([1.0, 1.0]))  # masks of one forward pass
        assert torch.equal(masked(weight), weight) and masked._kept is None
    bank.set(torch.tensor([1.0, 0.0]), token=3)
    assert masked(weight).requires_grad and masked._kept is None


def test_gates_of_masks_that_stay(net):
    space = space_of(net, image())
    masks = Masks(net, space)
    (unit,) = (index for index, unit in enumerate(space.units) if unit.kind == 'depth')
    element = space.offsets[unit]
    values = torch.ones(space.num_elements)
    values[element] = 0  # the first block is gone, the second stays
    results = []
    for token in (None, 'fixed'):
        masks.set(values, token)
        assert masks.bank.known(element) == (None if token is None else 0.0)
        net.zero_grad()
        out = net(image())
        out.sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(net(image()), out)
        results.append((out.detach(), [p.grad.clone() for p in net.parameters()]))
    (expected, gradients), (found, others) = results
    assert torch.equal(found, expected)
    # The block that is gone has gradients of 0, not none.
    for a, b in zip(gradients, others, strict=True):
        torch.testing.assert_close(b, a)
    assert all(float(p.grad.abs().sum()) == 0 for p in net.blocks[0].parameters())


@pytest.mark.parametrize('size', [1, 4])
def test_the_smaller_side_is_masked(size, monkeypatch):
    """The input of a 3x3 convolution of 6 x 8 channels (432 numbers) has 6 per image and pixel; a linear layer's 8."""
    torch.manual_seed(0)
    layers = dict(stem=conv(3, 6), wide=conv(6, 8, 3), out=nn.Linear(8, 5))
    net = Net(lambda n, x: n.out(n.wide(n.stem(x).tanh()).tanh().mean((2, 3))), **layers)
    space = space_of(net, image(size=4))
    x = image(size=4 * size)
    values = soft_masks(space)
    Masks(net, space)
    plain = without_masks(net)
    sides = []
    real = MaskedWeight.of_input

    def spied(self, *args):
        found = real(self, *args)
        sides.append(found is not None)
        return found

    monkeypatch.setattr(MaskedWeight, 'of_input', spied)
    results = []
    for smaller in (True, False):
        if not smaller:
            monkeypatch.setattr(MaskedWeight, 'of_input', lambda *_: None)
        net = without_masks(plain).double()
        masks, leaf = Masks(net, space), values.double().requires_grad_()
        masks.set(leaf)
        output = net(x.double())
        output.square().sum().backward()
        results.append([output, leaf.grad, *(p.grad for p in net.parameters())])
    # One image of 4 x 4: 96 numbers, or 16 x 16: 1536. Of the linear layer 8 against 40.
    assert sides == [size == 1, True]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    assert results[0][1].count_nonzero() == len(values)


def test_inputs_are_not_masked_in_evaluation_or_where_they_are_of_another_type():
    bank = MaskBank()
    weight = MaskedWeight(bank, [(1, torch.tensor([[0], [1]]))], 2)
    parameter, x = torch.ones(9, 2), torch.ones(1, 2)
    assert weight.of_input(x, parameter, -1) is None  # masks are off
    bank.set(torch.tensor([0.5, 0.25]))
    assert weight.of_input(x, parameter, -1).tolist() == [0.5, 0.25]
    assert weight.of_input(x.half(), parameter, -1) is None
    assert weight.of_input(torch.ones(9, 2), parameter, -1) is None  # not smaller
    assert weight.of_input(torch.ones(1, 4), parameter, -1) is None  # not the channels in their order
    with torch.no_grad():
        assert weight.of_input(x, parameter, -1) is None
    bank.set(torch.ones(2), token=1)
    assert weight.of_input(x, parameter, -1) is None and weight(parameter) is parameter  # all stay: nothing to do
