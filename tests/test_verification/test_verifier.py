import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, reasons, sizes
from mmengine.registry import init_default_scope
from torch import nn

from mmdms.api import build_search_space
from mmdms.openmmlab.architecture import build_architecture, tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.export.subnet import without_pretrained
from mmdms.space.search_space import FIXED
from mmdms.verification.parity import Parity, check_parity, compare, difference, prepare_for_parity
from mmdms.verification.verifier import freeze_units, random_structure, uneven_structure


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(6, 4), conv(4, 6)

    def forward(self, x):
        return x + self.b(F.relu(self.a(x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = dict(stem=conv(3, 6), blocks=nn.Sequential(Block(), Block()), mid=conv(6, 5), out=conv(5, 2))
    return Net(lambda n, x: n.out(n.mid(n.blocks(n.stem(x)))), **layers)


@pytest.fixture
def space(net):
    return build_search_space(net, image())


def kept(structure):
    return [row['kept'] for row in structure.report()]


@pytest.mark.parametrize(('ratio', 'expected'), [(0, [1, 1, 1, 1, 0]), (0.5, [3, 2, 2, 2, 1]), (1, [6, 4, 4, 5, 2])])
def test_random_structure(space, ratio, expected):
    assert [u.total for u in space.units] == [6, 4, 4, 5, 2]
    assert kept(random_structure(space, ratio)) == expected


def test_random_structures_repeat_by_seed(space):
    first, again, other = [random_structure(space, 0.5, seed) for seed in (1, 1, 2)]
    assert first.kept == again.kept != other.kept


def test_only_the_units_asked_for_are_cut(space):
    assert kept(random_structure(space, 0.5, 0, [1])) == [6, 2, 4, 5, 2]
    assert kept(uneven_structure(space, 0, 0, [1, 4])) == [6, 2, 4, 5, 2]


def test_uneven_structures(space):
    # Shares 0.35 + half of the fraction of 0.618, 1.236, 1.854, 2.472: 0.66 of 6, 0.47 of 4, 0.78 of 4, 0.59 of 5.
    everything = range(5)
    assert kept(uneven_structure(space, 0, 0, everything)) == [4, 2, 3, 3, 2]
    # The same from 0.5 on: 0.41 of 6, 0.72 of 4, 0.53 of 4, 0.84 of 5; and no block.
    assert kept(uneven_structure(space, 1, 0, everything)) == [2, 3, 2, 4, 0]


def test_freezing_a_unit_keeps_cost_and_slices(net, space):
    assert list(sizes(space)) == ['stem', 'blocks.0.a', 'blocks.1.a', 'mid', 'blocks']
    smaller = freeze_units(space, {1: 'one', 4: 'two'})
    assert list(sizes(smaller)) == ['stem', 'blocks.1.a', 'mid']
    assert smaller.blocks == {}
    assert [(f.module, f.reason, f.elements) for f in smaller.frozen[-2:]] == [
        ('blocks.0.a', 'one', 4),
        ('blocks', 'two', 2),
    ]
    part = torch.tensor([True, False, True, False, True, True])
    inner, mid = torch.tensor([False, True, True, False]), torch.tensor([True, False, True, False, True])
    mask, whole = (
        torch.cat([part, inner, mid]),
        torch.cat([part, torch.ones(4).bool(), inner, mid, torch.ones(2).bool()]),
    )
    for metric in ('flops', 'params'):
        assert smaller.cost(metric, mask) == space.cost(metric, whole)
    axes = {(a.parameter, a.dim): a.elements[:, 0].tolist() for a in smaller.axes}
    assert axes['mid.weight', 0] == [10, 11, 12, 13, 14] and axes['mid.weight', 1] == [0, 1, 2, 3, 4, 5]
    assert not any(name == 'blocks.0.a.bias' for name, _ in axes) and FIXED not in axes['stem.weight', 0]


def test_verification_keeps_what_is_sound(net, space):
    """A fixed view of mid's 5 channels: mid is frozen, all else is searched."""
    net.run = lambda n, x: n.out(n.mid(n.blocks(n.stem(x))).view(1, 5, 16).flip(2).view(1, 5, 4, 4))
    found = build_search_space(net, image())
    assert sizes(found) == {name: total for name, total in sizes(space).items() if name != 'mid'}
    (reason,) = [f.reason for f in found.frozen if f.module == 'mid']
    assert reason.startswith("the sliced network does not run: RuntimeError: shape '[1, 5, 16]' is invalid")


def test_two_units_at_fault_are_both_found(net, space):
    net.run = lambda n, x: n.out(n.mid(n.blocks(n.stem(x).view(1, 6, 4, 4))).view(1, 5, 4, 4))
    assert list(sizes(build_search_space(net, image()))) == ['blocks.0.a', 'blocks.1.a', 'blocks']


def test_without_verification_the_fault_stays(net):
    net.run = lambda n, x: n.out(n.mid(n.stem(x)).view(1, 5, 4, 4))
    assert 'mid' in sizes(build_search_space(net, image(), verify=False))


def test_noise_for_every_channel_is_not_searched(net):
    """Noise in evaluation, as much as there are channels: a slice would draw other numbers."""
    net.run = lambda n, x: n.out(n.mid(F.dropout(n.stem(x))))
    found = build_search_space(net, image())
    assert sizes(found) == {'mid': 5}
    assert 'meets a tensor of fixed size' in reasons(found)['stem']


def test_noise_that_no_channel_changes(net):
    """As much noise whatever is cut: the same for mask and slice, which are compared under it."""
    net.run = lambda n, x: n.out(n.mid(n.stem(x)) + torch.rand(()))
    assert sizes(build_search_space(net, image())) == {'stem': 6, 'mid': 5}


def test_verification_sees_behind_weights_that_start_at_zero(net):
    nn.init.zeros_(net.out.weight)
    net.run = lambda n, x: n.out(n.mid(n.stem(x)) * n.mid(n.stem(x)).size(1))
    assert 'mid' not in sizes(build_search_space(net, image()))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_nothing_has_initialised_yet(net, space, value):
    """``nn.Parameter(torch.Tensor(n))`` holds what the memory held, until ``init_weights``: mmdet's level_embed."""
    net.mid.bias.data[1] = value
    found = build_search_space(net, image())
    assert sizes(found) == sizes(space) and len(found.frozen) == len(space.frozen)
    assert not net.mid.bias.isfinite().all()  # the network itself stays as it is


def test_prepared_networks_hide_nothing(net):
    net.norm = nn.BatchNorm2d(6)
    net.scale = nn.Parameter(torch.zeros(6))
    prepared = prepare_for_parity(net)
    assert not prepared.training and prepared.norm.weight.dtype == torch.float64
    for tensor in (prepared.norm.weight, prepared.norm.bias, prepared.norm.running_mean, prepared.norm.running_var):
        assert len(set(tensor.tolist())) == 6
    assert len(set(prepared.scale.tolist())) == 6
    # What is not constant stays as it is but for its scale, and so does the network itself.
    stem, inputs = net.stem.weight.detach().double(), net.stem.weight[0].numel()
    torch.testing.assert_close(prepared.stem.weight.detach(), stem / stem.std() * (2 / inputs) ** 0.5)
    assert net.norm.weight.tolist() == [1.0] * 6 and net.training


def test_parity_of_a_sound_structure(net, space):
    parity = check_parity(net, space, random_structure(space, 0.5), (image(),))
    assert parity.holds and parity.max_abs_output > 0
    assert parity.to_dict() == dict(max_abs_diff=parity.max_abs_diff, max_abs_output=parity.max_abs_output)


def test_parity_notices_a_wrong_slice(net, space):
    (axis,) = [a for a in space.axes if (a.parameter, a.dim) == ('mid.weight', 0)]
    axis.elements = axis.elements.flip(0)
    parity = check_parity(net, space, random_structure(space, 0.4), (image(),))
    assert parity.max_abs_diff > 1e-3 * parity.max_abs_output and not parity.holds


def test_parity_notices_a_forgotten_slice(net, space):
    space.axes = [a for a in space.axes if a.parameter != 'mid.bias']
    with pytest.raises(RuntimeError, match='bias'):
        check_parity(net, space, random_structure(space, 0.5), (image(),))


def test_parity_compares_every_output(net, space):
    structure = random_structure(space, 0.5)
    net.run = lambda n, x: dict(
        a=n.out(n.mid(n.stem(x))), b=[1e-3 * n.mid(n.stem(x)).sum() * 0 + n.mid.weight.size(0)]
    )
    assert check_parity(net, space, structure, (image(),)).max_abs_diff == 3  # 2 of 5 stay
    net.run = lambda n, x: n.mid(n.stem(x))
    with pytest.raises(ValueError, match=r'other shapes: \(1, 2, 4, 4\) instead of \(1, 5, 4, 4\)'):
        check_parity(net, space, structure, (image(),))


def test_a_forward_that_creates_tensors_of_the_default_type(net):
    net.run = lambda n, x: n.out(n.mid(n.stem(x) + n.stem(torch.linspace(0, 1, 4).expand(1, 3, 4, 4))))
    assert sizes(build_search_space(net, image())) == {'stem': 6, 'mid': 5}
    assert torch.get_default_dtype() == torch.float32


def test_nan_is_not_parity(net, space):
    net.run = lambda n, x: (n.out(n.mid(n.stem(x))), n.out(n.mid(n.stem(x))) * float('nan'))
    assert not check_parity(net, space, random_structure(space, 0.5), (image(),)).holds
    assert not Parity(float('nan'), 1.0, float('nan')).holds
    assert Parity(1e-9, 1.0, 1e-9).holds and not Parity(1e-7, 1.0, 1e-7).holds


def test_a_small_output_is_compared_beside_a_large_one():
    large, small = torch.tensor([1e6, 2e6]).double(), torch.tensor([1.0, 20.0, 0.0]).double()
    same = difference([large, small], [large, small + 1e-12])
    assert same.holds and same.max_abs_output == 2e6
    wrong = difference([large, small], [large, small + 1e-6])
    assert not wrong.holds
    assert wrong.max_abs_diff == pytest.approx(1e-6) and wrong.share == pytest.approx(1e-6 / 20)
    nothing = torch.zeros(3).double()  # what should be 0 and is only rounding
    assert difference([large, nothing], [large, nothing + 1e-12]).holds
    assert not difference([large, nothing], [large, nothing + 1e-3]).holds


@pytest.mark.parametrize(
    'config',
    ['mobilenet_v2/mobilenet-v2_8xb32_in1k.py', 'efficientnet/efficientnet-b0_8xb32_in1k.py'],
)
def test_a_change_of_the_first_layer_is_seen_at_the_last(config):
    """As PyTorch initialises them, what their first layer does is no more than rounding in their output."""
    config = load_config(f'mmpretrain::{config}')
    init_default_scope('mmpretrain')
    model = build_architecture(without_pretrained(config.model), config.get('data_preprocessor'))
    prepared = prepare_for_parity(model)
    changed = copy.deepcopy(prepared)
    first = next(p for p in changed.parameters() if p.dim() == 4)
    with torch.no_grad():
        first[0] *= 1.01
    inputs = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),)
    assert compare(prepared, changed, inputs, tensor_forward).share > 1e-6


def test_random_numbers_are_the_same_for_mask_and_slice():
    """Fractional pooling draws its windows in evaluation too: what it reads stays, all else is searched."""
    pool = nn.FractionalMaxPool2d(2, output_ratio=0.6)
    layers = dict(a=conv(3, 6), b=conv(6, 5), pool=pool, c=conv(5, 4), out=conv(4, 2))
    space = build_search_space(Net(lambda n, x: n.out(n.c(n.pool(n.b(n.a(x))))), **layers), image(size=8))
    assert sizes(space) == {'a': 6, 'c': 4}
    assert 'aten.fractional_max_pool2d' in reasons(space)['pool']
