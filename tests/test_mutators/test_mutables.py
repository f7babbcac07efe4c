"""Options of the kinds of units, and kinds that are left out, in a loop of one's own."""

import copy

import pytest
import torch
from helpers.searched import assert_same, batch, network, searched, state_of, train

from mmdms import DMSMutator, StructuredDPFMutator, build_search_space, slim
from mmdms.errors import BudgetError, ConfigError
from mmdms.masks.channel_masks import BlockGate, without_masks

LEFT_OUT = 'is left out by mutables=dict(depth=False)'


def settled(steps=24, **kwargs):
    model, mutator = searched(**kwargs)
    train(model, mutator, steps)
    assert mutator.settled
    return model, mutator


def test_the_defaults_change_nothing():
    """Bit for bit, whether kinds are named or not."""
    _, plain = settled()
    _, named = settled(mutables=dict(channels=True, heads=dict(), depth=dict(sharpness=4.0, order='importance')))
    assert_same(state_of(plain), named)


def test_a_kind_that_is_left_out_is_listed_and_stays_whole():
    model, mutator = settled(mutables=dict(depth=False))
    space = build_search_space(network(), torch.rand(1, 3, 6, 6))
    (depth,) = [unit for unit in space.units if unit.kind == 'depth']
    assert [(f.module, f.elements) for f in mutator.space.frozen if f.reason == LEFT_OUT] == [(depth.name, 2)]
    assert [unit.kind for unit in mutator.space.units] == ['channels'] * 3
    assert 'of them units left out of the search (depth)' in mutator.describe()
    assert not any(isinstance(hook, BlockGate) for m in model.modules() for hook in m._forward_hooks.values())

    structure = mutator.structure()  # of the space that was surveyed
    assert structure.units == space.units and structure.kept[depth.name] == [0, 1]
    assert structure.budget.within or structure.budget.achieved <= 0.4
    model.eval()
    inputs, _ = batch()
    for searched_space in (space, mutator.space):
        subnet = slim(model, searched_space, structure)
        torch.testing.assert_close(subnet(inputs), model(inputs))
        assert sum(p.numel() for p in subnet.parameters()) == searched_space.cost(
            'params', searched_space.mask(structure)
        )


def test_a_copy_of_both_searches_as_they_do():
    """Bit for bit."""
    _, expected = settled(mutables=dict(depth=False))
    model, mutator = copy.deepcopy(searched(mutables=dict(depth=False)))
    train(model, mutator, 24)
    assert_same(state_of(expected), mutator)
    assert mutator.structure().kept == expected.structure().kept


def test_channels_may_be_left_out():
    _, mutator = searched(mutables=dict(channels=False), budget=dict(metric='flops', target=0.6))
    assert [unit.kind for unit in mutator.space.units] == ['depth']
    with pytest.raises(ConfigError, match='nothing to search: every element of the network is frozen or left out'):
        searched(mutables=dict(channels=False, depth=False))


def test_by_position_the_last_go_first():
    _, mutator = settled(mutables=dict(channels=dict(order='position')))
    kept = {unit.name: mutator.structure().kept[unit.name] for unit in mutator.space.units if unit.kind == 'channels'}
    assert all(places == list(range(len(places))) for places in kept.values())
    assert any(len(kept[u.name]) < u.total for u in mutator.space.units if u.kind == 'channels')
    _, free = settled()
    assert any(free.structure().kept[name] != list(range(len(free.structure().kept[name]))) for name in kept)


def test_minimum():
    _, mutator = settled(mutables=dict(channels=dict(minimum=6), depth=dict(minimum=1)))
    rows = {row['name']: row for row in mutator.structure().report()}
    assert all(row['kept'] >= (6 if row['kind'] == 'channels' else 1) for row in rows.values())
    assert mutator.floor.tolist() == [
        pytest.approx((5.5 if unit.kind == 'channels' else 0.5) / unit.total) for unit in mutator.space.units
    ]
    # By hand: with 6 of 12 and 6 of 8 channels a convolution of a block has 0.375 of its FLOPs, of which the network
    # has 4 with both blocks; the stem has half of its own.
    full, stem, block, last = 36 * (324 + 4 * 864) + 60, 36 * 324, 36 * 864, 60
    lowest = (stem / 2 + 4 * 0.375 * block + last / 2) / full
    with pytest.raises(BudgetError, match=f'still costs {lowest:.3f}'):
        searched(
            mutables=dict(channels=dict(minimum=6), depth=dict(minimum=2)), budget=dict(metric='flops', target=0.3)
        )


def test_sharpness_and_divisor():
    _, mutator = searched(mutables=dict(channels=dict(divisor=3), depth=dict(sharpness=0.5)), divisor=2)
    assert mutator.sharpness.tolist() == [0.5 if u.kind == 'depth' else 1.0 for u in mutator.space.units]
    assert mutator.divisors.tolist() == [1 if u.kind == 'depth' else 3 for u in mutator.space.units]
    # At keep ratio 1 the mask of the last block of two is sigmoid(0.5 * 2 * (1 - 0.75)).
    last = mutator._soft(mutator.keep_ratio, mutator._ranks())[mutator.is_depth[mutator.unit]].min()
    assert float(last) == pytest.approx(1 / (1 + 2.718281828 ** (-0.25)), rel=1e-6)


def test_pruning():
    model = network()
    space = build_search_space(model, torch.rand(1, 3, 6, 6))
    mutator = StructuredDPFMutator(
        budget=dict(metric='flops', target=0.4), divisor=1, mutables=dict(depth=False, channels=dict(minimum=5))
    )
    mutator.prepare(model, space)
    train(model, mutator, 24)
    structure = mutator.structure()
    assert [f.reason for f in mutator.space.frozen if f.module == '2'] == [LEFT_OUT]
    assert structure.units == space.units
    assert all(len(structure.kept[u.name]) >= 5 for u in space.units if u.kind == 'channels')
    model.eval()
    inputs, _ = batch()
    torch.testing.assert_close(slim(without_masks(model), space, structure)(inputs), model(inputs))


@pytest.mark.parametrize(('mutables', 'message'), [
    (dict(channels=dict(sharpness=2.0)), r'mutables.channels.sharpness=2.0 has no effect in a StructuredDPFMutator'),
    (dict(depth=dict(minimum=1)), r'mutables.depth.minimum=1 has no effect .*: units of depth keep everything'),
    (dict(taps=False), r'mutator.mutables.taps is no kind of mutable unit: there are channels'),
])  # fmt: skip
def test_options_without_effect(mutables, message):
    with pytest.raises(ConfigError, match=message):
        StructuredDPFMutator(budget=dict(metric='flops', target=0.4), mutables=mutables)


def test_unknown_options():
    with pytest.raises(ConfigError, match="mutator.mutables.depht is no kind of mutable unit .did you mean 'depth'"):
        DMSMutator(budget=dict(metric='flops', target=0.4), mutables=dict(depht=False))
