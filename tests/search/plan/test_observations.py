"""The schedule on paper: which results a proposal sees, and that no order of events changes them."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.overhead.lag import share_waited
from stantune.search.plan.coordinator import ready_jobs
from stantune.search.plan.hyperband import Bracket, plan
from stantune.search.plan.observations import Place, ScheduledObservations, schedule
from stantune.search.plan.values import TrialRow

PLANS = st.builds(plan, st.integers(3, 40), st.integers(1, 3), st.integers(2, 4))


def first_numbers(brackets: tuple[Bracket, ...]) -> list[int]:
    """Return the number of each bracket's first trial."""
    return [sum(bracket.rungs[0].trials for bracket in brackets[:b]) for b in range(len(brackets) + 1)]


@given(PLANS, st.integers(1, 12))
def test_the_paper_has_every_place_once_and_each_rung_after_the_one_before(
    brackets: tuple[Bracket, ...], workers: int
) -> None:
    ended, seen = schedule(brackets, workers)
    every = [
        Place(b, i, slot)
        for b, bracket in enumerate(brackets)
        for i, rung in enumerate(bracket.rungs)
        for slot in range(rung.trials)
    ]
    assert sorted(ended) == every
    assert list(seen) == sorted(seen), "what a trial sees, the next one sees too"
    firsts = first_numbers(brackets)
    for b, bracket in enumerate(brackets):
        order = [place.rung for place in ended if place.bracket == b]
        assert order == sorted(order)
        for slot in range(bracket.rungs[0].trials):
            sees = ended[: seen[firsts[b] + slot]]
            assert all(
                place.bracket < b or (place.bracket == b and place.rung == 0 and place.slot < slot) for place in sees
            )
            # No more than `workers` - 1 are under way when it begins.
            earlier = sum(rung.trials for before in brackets[:b] for rung in before.rungs[:1]) + slot
            assert earlier - sum(place.rung == 0 for place in sees) < workers


def test_a_small_schedule_by_hand() -> None:
    # 9 trials of 1 iteration, 3 of 3, 1 of 9; then 5 of 3 and 1 of 9; then 3 of 9. Two workers.
    ended, seen = schedule(plan(9, 1, 3), 2)
    assert seen[:9] == (0, 0, 2, 2, 4, 4, 6, 6, 8)
    # Trial 8 ends at time 5; trial 9 has begun at time 4, the third of the second rung follows with trial 9.
    assert seen[9] == 8
    assert ended[8] == Place(0, 0, 8)
    assert ended[9:13] == (Place(0, 1, 0), Place(1, 0, 0), Place(0, 1, 1), Place(0, 1, 2))


def test_with_one_worker_a_trial_sees_all_before_it() -> None:
    brackets = plan(27, 1, 3)
    ended, seen = schedule(brackets, 1)
    rungs = [(place.bracket, place.rung) for place in ended]
    assert rungs == sorted(rungs)
    for number, first in zip(first_numbers(brackets), (0, 27 + 9 + 3 + 1), strict=False):
        assert seen[number] == first


@settings(max_examples=25, deadline=None)
@given(PLANS, st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_read_depends_on_the_table_alone(
    simulated: ModuleType, brackets: tuple[Bracket, ...], workers: int, salt: int, order: int
) -> None:
    of, dice = simulated.outcome(salt), random.Random(order)
    followed = ScheduledObservations(brackets, workers)
    rows: list[TrialRow] = []
    begins = [0]
    while jobs := ready_jobs(brackets, rows):
        begins.append(followed.begins(rows))
        assert begins[-1] == ScheduledObservations(brackets, workers).begins(rows)
        # Trials begin in the order of their numbers, but end in any.
        rows = simulated.after(rows, dice.choice([job for job in jobs if job.number <= len(rows)]), of)
    assert begins == sorted(begins)
    assert followed.begins(rows) == first_numbers(brackets)[-1]
    places = len(schedule(brackets, workers).ended)
    read = followed.first(places, rows)
    assert read == ScheduledObservations(brackets, workers).first(places, rows)
    assert sorted(read[:places]) == sorted(
        (row.number, stop, error) for row in rows for stop, error in [*row.errors.items(), *divergence(brackets, row)]
    )


def divergence(brackets: tuple[Bracket, ...], row: TrialRow) -> list[tuple[int, None]]:
    """Return the rung in which the trial diverged, if it did."""
    rungs = next(bracket.rungs for bracket in brackets if bracket.s == row.bracket)
    left = [rung.iterations for rung in rungs if rung.iterations not in row.errors]
    return [] if row.diverged_at is None else [(left[0], None)]


@pytest.mark.parametrize(
    ("workers", "diverging", "most"),
    [(1, 0, 0), (1, 128, 0), (16, 0, 0), (2, 0, 0.005), (2, 128, 0.005), (4, 128, 0.02), (8, 0, 0.02), (8, 128, 0.05)],
)
def test_half_as_many_workers_as_the_lag_hardly_wait(
    simulated: ModuleType, workers: int, diverging: int, most: float
) -> None:
    of = simulated.outcome(1, 97, diverging)
    assert share_waited(plan(81, 1, 3), workers, 16, of) <= most


def test_results_that_are_not_there_cannot_be_asked_for() -> None:
    with pytest.raises(AssertionError, match="1 results are asked for where 0 are there"):
        ScheduledObservations(plan(9, 1, 3), 1).first(1, [])


def test_who_is_promoted_is_looked_up_and_not_searched_for() -> None:
    class Listed(list[int]):
        def __contains__(self, number: object) -> bool:
            raise AssertionError("each trial is searched for among all that were promoted")

    followed = ScheduledObservations(plan(9, 1, 3), 1)
    rows = [TrialRow(n, 2, {}, {1: 20.0 + n, 3: 10.0 + n} if n < 3 else {1: 20.0 + n}) for n in range(9)]
    count = followed.seen_by(9)
    seen = followed.first(count - 1, rows)
    followed._numbers = {place: Listed(numbers) for place, numbers in followed._numbers.items()}
    assert followed.overtaken(seen, 3) == list(range(3, 9))
