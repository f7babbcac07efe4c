"""Rounding that a network amplifies is no fault of a slice; a wrong slice is one, however much it amplifies."""

import pytest
import torch
from torch import nn

import mmdms
from mmdms.verification import parity
from mmdms.verification.parity import TOLERANCE, check_parity, prepare_for_parity
from mmdms.verification.verifier import uneven_structure


class Amplifier(nn.Module):
    """Rounding in its first layers grows by a factor, and nothing else does."""

    def __init__(self, factor):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.third, self.factor = nn.Conv2d(64, 4, 1), factor

    def forward(self, x):
        return self.third((self.second(self.first(x).relu()) * self.factor).sin())


@pytest.fixture(scope='module')
def inputs():
    return (torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)),)


def spaced(factor, inputs):
    torch.manual_seed(0)
    model = Amplifier(factor)
    return model, mmdms.build_search_space(model, inputs, verify=False)


def parity_of(model, space, inputs):
    structure = uneven_structure(space, 0, 0, range(len(space.units)))
    return check_parity(prepare_for_parity(model, cast=False), space, structure, inputs, prepared=True)


def test_rounding_freezes_nothing(inputs):
    model, space = spaced(1e9, inputs)
    found = parity_of(model, space, inputs)
    assert found.max_abs_diff > TOLERANCE * found.max_abs_output  # what the plain comparison saw
    assert found.holds
    assert not [f for f in mmdms.build_search_space(model, inputs).frozen if 'differs' in f.reason]


@pytest.mark.parametrize('factor', [1.0, 1e9, 1e14])
@pytest.mark.parametrize('name', ['first.weight', 'second.weight', 'third.weight'])
def test_a_wrong_slice_is_seen_through_any_rounding(inputs, monkeypatch, factor, name):
    """One weight of thousands is changed by a thousandth of what weights are."""
    model, space = spaced(factor, inputs)
    right = parity.slim

    def wrong(*args, **kwargs):
        subnet = right(*args, **kwargs)
        weight = subnet.get_parameter(name)
        changed = weight.detach().double()
        changed.view(-1)[7] += 1e-3 * changed.std()
        owner, _, attribute = name.rpartition('.')
        subnet.get_submodule(owner)._parameters[attribute] = nn.Parameter(changed)
        return subnet

    monkeypatch.setattr(parity, 'slim', wrong)
    assert not parity_of(model, space, inputs).holds


def test_chaos_is_not_taken_for_rounding(inputs):
    """Where rounding alone decides the outputs, nothing is known of a slice: it is not accepted."""
    model, space = spaced(1e14, inputs)
    assert not parity_of(model, space, inputs).holds
