"""The speed-up equation against a sum over the iterations and against the source's own formula."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.stan.planning.cost import IterationTimes, pays, run_time, speedup
from stantune.stan.schedule import Phase, Schedule

schedules = st.builds(
    Schedule,
    pretrain=st.integers(0, 30),
    period=st.none() | st.integers(0, 9),
    tail=st.integers(0, 30),
    total=st.integers(0, 90),
    unit=st.integers(1, 4),
)
# Sixteenths are exact in floating point, so that sums in any order are equal.
exact_times = st.builds(
    lambda t_f, t_b, t_e, i, j: (t_f / 16, t_b / 16, t_e / 16, (i % t_f) / 16, (j % t_b) / 16),
    *[st.integers(1, 2000)] * 2,
    *[st.integers(0, 2000)] * 3,
)


@given(times=exact_times, schedule=schedules, iterations=st.integers(0, 90))
def test_a_run_takes_the_sum_of_its_iterations(times, schedule, iterations):
    t_f, t_b, t_e, t_i, t_j = times
    takes = {
        Phase.EXACT: t_f + t_b,
        Phase.REFRESH: t_f + t_b + t_e,
        Phase.REDUCED: (t_f - t_i) + (t_b - t_j),
    }
    total = sum(takes[schedule.phase(iteration)] for iteration in range(iterations))
    one = IterationTimes(t_f + t_b, t_e, t_i, t_j)
    assert run_time(one, schedule, iterations) == total
    assert speedup(one, schedule, iterations) == (iterations * (t_f + t_b) / total if iterations else 1.0)


@given(times=exact_times, pretrain=st.integers(0, 50), period=st.integers(0, 20), cycles=st.integers(1, 50))
def test_whole_cycles_are_the_equation_of_the_source(times, pretrain, period, cycles):
    t_f, t_b, t_e, t_i, _ = times
    n = pretrain + cycles * (period + 1)
    source = n * (t_f + t_b) / (n * (t_f + t_b) - (n - pretrain) / (period + 1) * (period * t_i - t_e))
    found = speedup(IterationTimes(t_f + t_b, t_e, t_i, 0.0), Schedule(pretrain, period), n)
    assert found == pytest.approx(source, rel=1e-12)


@given(times=exact_times, period=st.none() | st.integers(0, 20))
def test_a_long_run_approaches_its_limit_whatever_its_ends(times, period):
    t_f, t_b, t_e, t_i, t_j = times
    one = IterationTimes(t_f + t_b, t_e, t_i, t_j)
    limit = speedup(one, Schedule(7, period), None)
    n = 10**12
    assert speedup(one, Schedule(7, period, 11, n), n) == pytest.approx(limit, rel=1e-6)


@given(times=exact_times, period=st.integers(0, 20))
def test_it_pays_where_the_speed_up_is_above_one(times, period):
    t_f, t_b, t_e, t_i, t_j = times
    limit = speedup(IterationTimes(t_f + t_b, t_e, t_i, t_j), Schedule(0, period), None)
    assert pays(period, t_i, t_j, t_e) == (limit > 1)


def test_break_even_in_numbers():
    assert not pays(4, 1.0, 1.0, 8.0)
    assert pays(4, 1.0, 1.0, 7.9)
    assert pays(None, 0.1, 0.0, 100.0)
    assert not pays(None, 0.1, -0.1, 0.0)


def test_a_worked_example():
    # 10 exact iterations of 30, then 9 cycles of 1 x (30 + 3) and 9 x (30 - 5 - 10).
    times = IterationTimes(exact=30.0, t_e=3.0, t_i=5.0, t_j=10.0)
    assert run_time(times, Schedule(pretrain=10, period=9), 100) == 300 + 9 * 33 + 81 * 15
    assert speedup(times, Schedule(pretrain=10, period=9), 100) == 3000 / 1812


@pytest.mark.parametrize(
    "times",
    [(0.0, 0, -1, 0), (1.0, -0.1, 0, 0), (1.0, 0, 0.5, 0.5), (math.inf, 0, 0, 0), (1.0, math.nan, 0, 0)],
    ids=["no time", "negative t_e", "saves all", "infinite", "nan"],
)
@pytest.mark.parametrize("iterations", [None, 5])
def test_times_that_contradict_each_other_are_refused(times, iterations):
    with pytest.raises(ValueError, match=r"are no times|cannot save"):
        speedup(IterationTimes(*times), Schedule(), iterations)


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="-1 iterations"):
        speedup(IterationTimes(1.0, 0.0, 0.0, 0.0), Schedule(), -1)
