import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, random_mask, space_of
from torch import nn

from mmdms.errors import StructureError
from mmdms.slicing.resize import Passthrough, remove_blocks, replace_tensors, reset_parameters
from mmdms.slicing.slim import removed_blocks, slim
from mmdms.space.structure import Structure, UnitInfo


def test_values_and_shapes_by_hand():
    layers = dict(a=conv(3, 4, 3), bn=nn.BatchNorm2d(4), out=nn.Linear(64, 5))
    net = Net(lambda n, x: n.out(n.bn(n.a(x)).flatten(1)), **layers)
    net.bn.running_mean.copy_(torch.arange(4.0))
    space = space_of(net, image())
    subnet = slim(net, space, Structure(space.units, [[1, 3]]))
    assert type(subnet) is Net and set(subnet.state_dict()) == set(net.state_dict())
    assert torch.equal(subnet.a.weight, net.a.weight[[1, 3]])
    assert torch.equal(subnet.a.bias, net.a.bias[[1, 3]])
    assert subnet.bn.running_mean.tolist() == [1.0, 3.0]
    assert torch.equal(subnet.out.weight, net.out.weight[:, [*range(16, 32), *range(48, 64)]])
    assert torch.equal(subnet.out.bias, net.out.bias)
    assert (subnet.a.in_channels, subnet.a.out_channels) == (3, 2)
    assert subnet.bn.num_features == 2
    assert (subnet.out.in_features, subnet.out.out_features) == (32, 5)
    # The supernet is as it was, and shares no memory.
    assert net.a.weight.shape == (4, 3, 3, 3) and net.a.out_channels == 4
    subnet.out.bias.data.zero_()
    assert bool(net.out.bias.any())


def test_convolution_attributes():
    layers = dict(
        a=conv(3, 8),
        g=conv(8, 12, groups=4),
        dw=conv(12, 24, 3, groups=12),
        t=nn.ConvTranspose2d(24, 6, 2),
        act=nn.PReLU(6),
        out=conv(6, 2),
    )
    net = Net(lambda n, x: n.out(n.act(n.t(n.dw(n.g(n.a(x)))))), **layers)
    space = space_of(net, image())
    assert [(u.name, u.total) for u in space.units] == [('a', 2), ('g', 3), ('t', 6)]
    subnet = slim(net, space, Structure(space.units, [[1], [0, 2], [5]]))
    assert (subnet.a.in_channels, subnet.a.out_channels) == (3, 4)
    # Grouped: 4 groups of 1 input and 2 outputs; the depthwise layer doubles each of its 8.
    assert (subnet.g.in_channels, subnet.g.out_channels, subnet.g.groups) == (4, 8, 4)
    assert (subnet.dw.in_channels, subnet.dw.out_channels, subnet.dw.groups) == (8, 16, 8)
    assert (subnet.t.in_channels, subnet.t.out_channels) == (16, 1)
    assert subnet.act.num_parameters == 1
    assert str(subnet.dw).startswith('Conv2d(8, 16')


def test_a_subnet_learns():
    net = Net(lambda n, x: n.out(F.relu(n.a(x))), a=conv(3, 4), out=conv(4, 2))
    net.a.bias.requires_grad_(False)
    space = space_of(net, image())
    subnet = slim(net, space, Structure(space.units, [[0, 2]]))
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in subnet.parameters())
    assert subnet.a.weight.requires_grad and not subnet.a.bias.requires_grad
    subnet(image()).sum().backward()
    assert subnet.a.weight.grad.shape == (2, 3, 1, 1)


def test_shared_weights_stay_shared():
    net = Net(lambda n, x: n.out(n.b(n.a(n.stem(x)))), stem=conv(3, 4), a=conv(4, 4), b=conv(4, 4), out=conv(4, 2))
    net.b.weight = net.a.weight
    space = space_of(net, image())
    subnet = slim(net, space, Structure(space.units, [[0, 3]]))
    assert subnet.a.weight is subnet.b.weight and subnet.a.weight.shape == (2, 2, 1, 1)
    assert subnet.b.in_channels == 2


def test_the_whole_structure_changes_nothing():
    net = Net(lambda n, x: n.out(n.a(x)), a=conv(3, 4), out=conv(4, 2))
    space = space_of(net, image())
    subnet = slim(net, space, space.structure(torch.ones(4)))
    assert torch.equal(subnet(image()), net(image()))


def test_a_structure_of_another_network():
    net = Net(lambda n, x: n.out(n.a(x)), a=conv(3, 4), out=conv(4, 2))
    space = space_of(net, image())
    with pytest.raises(StructureError, match="unit 'a' is .*total=5"):
        slim(net, space, Structure([UnitInfo('a', 'channels', 5)], [[0]]))


def test_masks_and_structures_are_one():
    net = Net(lambda n, x: n.out(n.b(n.a(x))), a=conv(3, 4), b=conv(4, 5), out=conv(5, 2))
    space = space_of(net, image())
    structure = Structure(space.units, [[1, 2], [0, 4]])
    assert space.mask(structure).tolist() == [False, True, True, False, True, False, False, False, True]
    for seed in range(5):
        mask = random_mask(space, seed)
        assert torch.equal(space.mask(space.structure(mask)), mask)
    assert space.counts(space.mask(structure).double()).tolist() == [2, 2]
    assert space.unit_of_element.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert space.minimum_mask().tolist() == [True, False, False, False, True, False, False, False, False]
    assert removed_blocks(space, space.minimum_mask()) == []


def test_remove_blocks_and_pass_on_the_first_argument():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    remove_blocks(net, ['0', '1.0'])
    x = torch.rand(2)
    assert net(x) is x
    assert Passthrough()(x, 1, mask=None) is x


def test_reset_parameters_suits_the_new_shape():
    net = nn.Sequential(nn.Linear(1000, 100), nn.Linear(100, 3))
    untouched = net[1].weight.clone()
    replace_tensors(net, {'0.weight': net[0].weight.detach()[:, :10]})
    assert float(net[0].weight.detach().abs().max()) <= 1000**-0.5
    reset_parameters(net, ['0.weight', '0.bias'])
    # PyTorch draws from +-1 / sqrt(fan in): now of 10 inputs, not of 1,000.
    assert 0.3 < float(net[0].weight.detach().abs().max()) <= 10**-0.5
    assert torch.equal(net[1].weight, untouched)
