"""Schedules are pure functions of progress; numbers worked out by hand."""

import pytest

from mmdms.engine.schedule import SearchSchedule
from mmdms.errors import ConfigError


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
