"""The contract that every registered kind of units keeps, ours and one of a user's own."""

import pickle

import numpy as np
import pytest
import torch
from helpers.drawn_spaces import table_of

from mmdms.errors import ConfigError, StructureError
from mmdms.mutables import MutableUnit, build_mutables, kind_of, kinds, left_out
from mmdms.mutators.budgets.fit import fit_to_budget, unit_divisors
from mmdms.registry import MUTABLES
from mmdms.space.structure import Structure, UnitInfo
from mmdms.verification.verifier import random_structure, uneven_structure


class Steps(MutableUnit):
    """A kind that keeps its first elements, two at least."""

    minimum = 2
    noun = 'step'
    prefix_only = True


KINDS = sorted([*kinds(), 'steps'])


@pytest.fixture(autouse=True, scope='module')
def own_kind():
    """The kind of this module is gone after it."""
    MUTABLES.register_module('steps', module=Steps)
    yield
    del MUTABLES._module_dict['steps']


def test_ours_are_registered():
    assert KINDS == ['channels', 'depth', 'heads', 'steps']
    assert {name: kind_of(name).minimum for name in KINDS} == dict(channels=1, depth=0, heads=1, steps=2)
    # ``lambda`` of the soft mask as searches had it before kinds were classes.
    assert {name: kind_of(name).sharpness for name in KINDS[:3]} == dict(channels=1.0, depth=4.0, heads=4.0)
    assert [name for name in KINDS if kind_of(name).gates_modules] == ['depth']
    assert [name for name in KINDS if kind_of(name).pruned_by_magnitude] == ['channels']


@pytest.mark.parametrize('name', KINDS)
def test_contract(name):
    """Options are those of the class unless given, instances can be pickled, and units of the kind are fitted."""
    kind = kind_of(name)
    unit = UnitInfo('unit', name, 16)
    plain = kind()
    assert unit.mutable is kind and unit.minimum == kind.minimum == plain.minimum
    assert plain.order == ('position' if kind.prefix_only else 'importance')
    assert kind.counted(1) == f'1 {kind.noun}' and kind.counted(3) == f'3 {kind.noun}s'
    assert 1 <= plain.step(16, 'auto') <= 16 and plain.fewest(16) == kind.minimum and plain.fewest(1) <= 1
    changed = pickle.loads(pickle.dumps(kind(minimum=5, sharpness=2)))
    assert (changed.minimum, changed.sharpness, changed.fewest(3)) == (5, 2.0, 3) and plain.minimum == kind.minimum

    space = table_of([unit], (1, 0, None))
    mask = fit_to_budget(space, 'flops', 0.5, torch.tensor([0.5]), (torch.arange(16) + 0.5) / 16,
                         unit_divisors([unit], 1))  # fmt: skip
    assert mask.tolist() == [True] * 8 + [False] * 8
    for structure in (random_structure(space, 0.0), *(uneven_structure(space, cut, 0, [0]) for cut in (0, 1, 2))):
        assert kind.minimum <= len(structure.kept['unit']) <= 16
        assert not kind.prefix_only or structure.kept['unit'] == list(range(len(structure.kept['unit'])))
    written = Structure([unit], [range(kind.minimum)])
    assert Structure.from_dict(written.to_dict()).units == [unit]
    if kind.minimum:
        with pytest.raises(StructureError, match=f'of kind {name!r} must keep at least {kind.minimum}'):
            Structure([unit], [range(kind.minimum - 1)])


def test_a_kind_that_keeps_its_first_elements():
    unit = UnitInfo('unit', 'steps', 4)
    assert Structure([unit], [[1, 0]]).kept == {'unit': [0, 1]}
    with pytest.raises(StructureError, match=r"of kind 'steps' must keep its first elements, but it keeps \[0, 2\]"):
        Structure([unit], [[0, 2]])


def test_random_structures_are_those_of_before():
    """A structure that was drawn by a seed is still the same: the draws of numpy's generator in order of the units."""
    units = [UnitInfo('a', 'channels', 6), UnitInfo('b', 'heads', 4), UnitInfo('c', 'depth', 3)]
    space = table_of(units, (1, 0, None))
    generator = np.random.default_rng(7)
    expected = [generator.permutation(u.total)[: max(u.minimum, round(u.total / 2))].tolist() for u in units]
    assert list(random_structure(space, 0.5, 7).kept.values()) == [sorted(kept) for kept in expected]


def test_options():
    built = build_mutables(dict(channels=dict(divisor='auto', minimum=3), heads=dict(sharpness=2), depth=False))
    assert (built['channels'].minimum, built['heads'].sharpness, built['depth'].sharpness) == (3, 2.0, 4.0)
    assert left_out(dict(heads=True, depth=False)) == ['depth'] and left_out(None) == []
    units = [UnitInfo('a', 'channels', 64), UnitInfo('b', 'heads', 8), UnitInfo('c', 'depth', 4)]
    assert unit_divisors(units, 2).tolist() == [2, 1, 1]
    assert unit_divisors(units, 2, built).tolist() == [8, 1, 1]
    own = build_mutables(dict(channels=dict(divisor=3), heads=dict(divisor=4)))
    assert unit_divisors(units, 'auto', own).tolist() == [3, 4, 1]


@pytest.mark.parametrize(('options', 'message'), [
    ('depth', "mutator.mutables must be a dict such as .*, but it is 'depth'"),
    (dict(head=False), "mutator.mutables.head is no kind of mutable unit .did you mean 'heads'.*: there are channels"),
    (dict(heads=0.5), 'mutator.mutables.heads must be a dict of options, True or False, but it is 0.5'),
    (dict(heads=dict(sharpnes=2)), "mutables.heads.sharpnes is no setting of heads .did you mean 'sharpness'.*order"),
    (dict(depth=dict(divisor=2)), 'mutables.depth.divisor is no setting of depth: there are minimum, .*, order'),
    (dict(depth=dict(sharpness=0)), 'mutables.depth.sharpness must be a finite number above 0, but it is 0'),
    (dict(heads=dict(sharpness=True)), 'mutables.heads.sharpness must be a finite number above 0, but it is True'),
    (dict(heads=dict(minimum=0)), 'mutables.heads.minimum must be a whole number from 1, but it is 0'),
    (dict(heads=dict(order='size')), r"mutables.heads.order must be one of \['importance', 'position'\], .* 'size'"),
    (dict(heads=dict(divisor='auto')), "mutables.heads.divisor must be a whole number from 1, but it is 'auto'"),
    (dict(steps=dict(order='importance')), r"mutables.steps.order must be one of \['position'\]"),
])  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build_mutables(options)


@pytest.mark.parametrize('name', ['width', '', None, ['depth'], 3])
def test_an_unknown_kind(name):
    with pytest.raises(ConfigError, match='is no kind of mutable unit: there are .*channels.*import the module'):
        kind_of(name)
