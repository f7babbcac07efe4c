"""Elements of kinds of a user's own: made by a module, counted by an attribute, or heads of another kind."""

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, reasons, space_of
from torch import nn

from mmdms import build_search_space
from mmdms.adapters import Adapter
from mmdms.errors import ConfigError
from mmdms.mutables import MutableUnit
from mmdms.registry import ADAPTERS, MUTABLES


class Taps(MutableUnit):
    noun = 'tap'
    prefix_only = True


class Experts(MutableUnit):
    noun = 'expert'
    groups_channels = True


class LookBack(nn.Module):
    """Reads the last values of a series."""

    def __init__(self, taps, width, kind='taps'):
        super().__init__()
        self.taps, self.kind, self.read = taps, kind, nn.Linear(taps, width)

    def past(self, x):
        return torch.stack([F.pad(x, (age, 0))[:, : x.size(1)] for age in range(self.taps)], -1)

    def forward(self, x):
        return self.read(self.past(x))


class LookBackAdapter(Adapter):
    adapts = LookBack

    def forward(self, x):
        return self.read(self.begin('taps', self.past(x), -1, kind=self.kind))


class Experted(nn.Module):
    """Several small networks side by side in one layer, and their sum, by weights that are learnt."""

    def __init__(self, dims, experts):
        super().__init__()
        self.experts, self.up, self.down = experts, nn.Linear(dims, 4 * experts), nn.Linear(4 * experts, dims)

    def forward(self, x):
        parts = self.up(x).unflatten(-1, (self.experts, -1))
        return self.down(F.relu(parts).flatten(-2))


class ExpertedAdapter(Adapter):
    adapts = Experted

    def setup(self):
        self.width = self.up.out_features // self.experts

    def forward(self, x):
        parts = self.split_heads(self.up(x), 'experts', 'width', kind='experts')
        return self.down(F.relu(parts).flatten(-2))


@pytest.fixture(autouse=True)
def own_kinds():
    """They are gone after each test."""
    before = [(registry, dict(registry.module_dict)) for registry in (ADAPTERS, MUTABLES)]
    MUTABLES.register_module('taps', module=Taps)
    MUTABLES.register_module('experts', module=Experts)
    for adapter in (LookBackAdapter, ExpertedAdapter):
        ADAPTERS.register_module(module=adapter)
    yield
    for registry, registered in before:
        registry._module_dict.clear()
        registry._module_dict.update(registered)


def series(steps=5):
    return torch.rand(1, steps, generator=torch.Generator().manual_seed(1))


def units(space):
    return {unit.name: (unit.kind, unit.total) for unit in space.units}


def test_elements_that_a_module_makes():
    """The FLOPs of both layers by hand: 5 steps, each taps times width and width times 2."""
    net = Net(lambda n, x: n.out(n.back(x)), back=LookBack(6, 4), out=nn.Linear(4, 2))
    space = space_of(net, series())
    assert units(space) == {'back.taps': ('taps', 6), 'back.read': ('channels', 4)}
    for taps, width in ((6, 4), (3, 2)):
        mask = torch.cat([torch.arange(6) < taps, torch.arange(4) < width])
        assert space.cost('flops', mask) == 5 * (taps * width + width * 2)
        assert space.cost('params', mask) == taps * width + width + width * 2 + 2


def test_patterns_leave_them_out():
    net = Net(lambda n, x: n.out(n.back(x)), back=LookBack(6, 4), out=nn.Linear(4, 2))
    space = space_of(net, series(), exclude=['back'])
    assert not space.units
    listed = {(f.module, f.elements) for f in space.frozen if 'left out by include and exclude patterns' in f.reason}
    assert listed == {('back', 6), ('back.read', 4)}


def test_a_single_one_stays():
    space = space_of(Net(lambda n, x: n.out(n.back(x)), back=LookBack(1, 4), out=nn.Linear(4, 2)), series())
    assert units(space) == {'back.read': ('channels', 4)}
    assert 'is a single tap, and one must stay' in reasons(space)['back.taps']


def test_they_stay_beside_elements_of_other_layers():
    net = Net(lambda n, x: n.out(n.back(n.a(x))), a=nn.Linear(5, 5), back=LookBack(6, 4), out=nn.Linear(4, 2))
    space = space_of(net, series())
    assert units(space) == {'back.read': ('channels', 4)}
    assert 'begins beside elements that other layers output' in reasons(space)['back']


def test_heads_of_another_kind():
    net = Net(lambda n, x: n.out(n.experted(n.a(x))), a=nn.Linear(5, 6), experted=Experted(6, 3), out=nn.Linear(6, 2))
    assert units(space_of(net, series())) == {
        'a': ('channels', 6), 'experted.experts': ('experts', 3), 'experted.width': ('channels', 4),
        'experted.down': ('channels', 6),
    }  # fmt: skip


def test_elements_of_two_kinds_stay():
    net = Net(lambda n, x: n.out(n.back(x)), back=LookBack(6, 4), out=nn.Linear(4, 2))

    class Twice(LookBackAdapter):
        def setup(self):
            self.count = self.taps

        def forward(self, x):
            past = self.begin('taps', self.past(x), -1, kind='taps')
            self.sized('count', past, -1, kind='experts')
            return self.read(past)

    ADAPTERS.register_module('LookBackAdapter', force=True, module=Twice)
    space = space_of(net, series())
    assert units(space) == {'back.read': ('channels', 4)}
    assert 'is stated to be of several kinds: taps, experts' in reasons(space)['back']


def test_a_kind_that_is_not_registered():
    net = Net(lambda n, x: n.out(n.back(x)), back=LookBack(6, 4, kind='tabs'), out=nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"'tabs' is no kind of mutable unit: there are .*'taps'"):
        build_search_space(net, series())
