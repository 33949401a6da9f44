"""The phases of a run: pure integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.stan.schedule import Phase, Schedule

schedules = st.builds(
    Schedule,
    pretrain=st.integers(0, 30),
    period=st.none() | st.integers(0, 9),
    tail=st.integers(0, 30),
    total=st.integers(0, 60),
    unit=st.integers(1, 7),
)


def test_the_cycle_of_the_source():
    schedule = Schedule(pretrain=2, period=3, tail=2, total=13)
    letters = "".join(schedule.phase(i)[0:3] + " " for i in range(13)).split()
    assert letters == ["exa", "exa", "ref", "red", "red", "red", "ref", "red", "red", "red", "ref", "exa", "exa"]


def test_cycles_of_epochs_begin_with_whole_epochs():
    schedule = Schedule(pretrain=2, period=1, unit=4)
    letters = "".join(schedule.phase(i)[0:3] + " " for i in range(20)).split()
    assert letters == ["exa"] * 4 + ["ref"] * 4 + ["red"] * 4 + ["ref"] * 4 + ["red"] * 4


def test_no_period_means_no_refresh():
    assert {Schedule(period=None).phase(i) for i in range(50)} == {Phase.REDUCED}


def test_period_zero_is_always_exact():
    assert Schedule(period=0).counts(0, 50) == (0, 50, 0)


@given(schedule=schedules, start=st.integers(0, 70), length=st.integers(0, 70))
def test_counts_are_those_of_the_phases(schedule, start, length):
    phases = [schedule.phase(i) for i in range(start, start + length)]
    assert schedule.counts(start, start + length) == tuple(phases.count(phase) for phase in Phase)


@pytest.mark.parametrize("name", ["pretrain", "period", "tail", "total"])
def test_negative_numbers_are_named(name):
    with pytest.raises(UsageError, match=f"{name}=-1 is negative"):
        Schedule(**{"total": 9, name: -1})


def test_a_unit_is_at_least_one_iteration():
    with pytest.raises(UsageError, match="unit of 0 iterations"):
        Schedule(unit=0)


def test_a_tail_needs_the_length_of_the_run():
    with pytest.raises(UsageError, match="tail=5"):
        Schedule(tail=5)
