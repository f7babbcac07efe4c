"""Schedules are pure functions of progress; numbers worked out by hand."""

import pytest

from mmdms.errors import ConfigError
from mmdms.mutators.schedule import SearchSchedule, SparsitySchedule


def test_by_hand():
    schedule = SearchSchedule(shrink=0.5, settle=0.75)
    assert schedule.target(0.25, 0.0) == 1.0
    assert schedule.target(0.25, 0.25) == pytest.approx(0.5)  # halfway to a quarter is a half
    assert schedule.target(0.25, 0.5) == schedule.target(0.25, 1.0) == 0.25
    phases = [schedule.phase(p) for p in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)]
    assert phases == ['shrink', 'shrink', 'refine', 'refine', 'settle', 'settle']
    assert [schedule.refined(p) for p in (0.0, 0.5, 0.625, 0.75, 1.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_without_a_refine_phase():
    schedule = SearchSchedule(shrink=0.5, settle=0.5)
    assert schedule.phase(0.5) == 'settle' and schedule.refined(0.4) == 0.0 and schedule.refined(0.5) == 1.0


@pytest.mark.parametrize(('shrink', 'settle'), [(0, 0.5), (0.6, 0.5), (0.5, 1.1), (-1, 1)])
def test_phases_must_add_up(shrink, settle):
    with pytest.raises(ConfigError, match=f'shrink is {shrink!r} and settle {settle!r}'):
        SearchSchedule(shrink, settle)


def test_sparsity_by_hand():
    """Halfway from 0 to 0.8 the cube of a half is still to go: 0.8 - 0.8 / 8."""
    schedule = SparsitySchedule(begin=0.2, end=0.6, settle=0.8)
    found = [schedule.sparsity(0.8, p) for p in (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)]
    assert found == pytest.approx([0, 0, 0, 0.7, 0.8, 0.8])
    assert schedule.target(0.2, 0.4) == pytest.approx(0.3) and schedule.target(0.2, 0.7) == 0.2
    assert [schedule.phase(p) for p in (0.0, 0.6, 0.8)] == ['shrink', 'refine', 'settle']


def test_sparsity_begins_where_it_is_told():
    schedule = SparsitySchedule(begin=0.5, end=1.0, initial=0.4)
    # A half of the way: 0.8 + (0.4 - 0.8) / 8.
    assert [schedule.sparsity(0.8, p) for p in (0.4, 0.5, 0.75, 1.0)] == pytest.approx([0, 0.4, 0.75, 0.8])


def test_sparsity_at_once():
    schedule = SparsitySchedule(begin=0.5, end=0.5, settle=0.5)
    assert [schedule.sparsity(0.9, p) for p in (0.49, 0.5)] == [0, 0.9]


@pytest.mark.parametrize(
    'times', [dict(begin=0.6, end=0.5), dict(end=0.9, settle=0.5), dict(begin=-0.1), dict(settle=2)]
)
def test_times_of_sparsity_must_add_up(times):
    with pytest.raises(ConfigError, match='begin <= end <= settle'):
        SparsitySchedule(**times)


def test_initial_sparsity_out_of_range():
    with pytest.raises(ConfigError, match='schedule.initial is a sparsity in'):
        SparsitySchedule(initial=1.0)
