"""Asynchronous brackets: against a plain simulation, in any order of results, with any number of workers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.search.plan.asha import Asha, AsyncBracket, async_plan
from stantune.search.plan.coordinator import Coordinator, endings, ready_jobs, rungs
from stantune.search.plan.hyperband import plan, trained_iterations
from stantune.search.plan.observations import AsyncObservations
from stantune.search.plan.standings import status
from stantune.search.plan.values import Result, TrialRow
from stantune.search.telling.progress import iterations_left

Outcome = Callable[[int, int], float | None]


@st.composite
def brackets(draw: st.DrawFn) -> AsyncBracket:
    """Plans of two to four rungs, on paper by one to nine workers."""
    eta, least, promotions = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    longest = least * eta**promotions + draw(st.integers(0, least * eta**promotions - 1))
    trials = eta**promotions + draw(st.integers(0, 40))
    return async_plan(longest, least, eta, draw(st.integers(1, 9)), trials)[0]


def plainly(bracket: AsyncBracket, of: Outcome) -> list[tuple[int, int, int]]:
    """Play the paper iteration by iteration; return (time, number, rung) of each step that begins, in order."""
    began: list[tuple[int, int, int]] = []
    results: list[dict[int, float | None]] = [{} for _ in bracket.rungs]
    running: list[tuple[int, int, int]] = []
    now, begun = 0, 0
    while True:
        for end, number, rung in running:
            if end == now:
                results[rung][number] = of(number, bracket.rungs[rung].iterations)
        running = [step for step in running if step[0] > now]
        while len(running) < bracket.lag:
            step = None
            for rung in reversed(range(len(bracket.rungs) - 1)):
                gone = {number for _, number, at in began if at == rung + 1}
                ranked = sorted((e, number) for number, e in results[rung].items() if e is not None)
                left = [number for _, number in ranked if number not in gone]
                # Who may still come into this rung: those who run to it, or are in a lower rung that is not done with.
                coming = begun < bracket.rungs[0].trials if rung == 0 else comes(bracket, results, began, rung, begun)
                coming |= any(at == rung for _, _, at in running)
                most = len(results[rung]) // bracket.eta if coming else bracket.rungs[rung + 1].trials
                if left and len(gone) < most:
                    step = (left[0], rung + 1)
                    break
            if step is None and begun < bracket.rungs[0].trials:
                step, begun = (begun, 0), begun + 1
            if step is None:
                break
            number, rung = step
            before = bracket.rungs[rung - 1].iterations if rung else 0
            running.append((now + bracket.rungs[rung].iterations - before, number, rung))
            began.append((now, number, rung))
        if not running:
            return began
        now += 1


def comes(bracket: AsyncBracket, results: Any, began: Any, rung: int, begun: int) -> bool:
    """Tell whether anybody may yet be promoted into a rung, by going down from it."""
    for below in range(rung - 1, -1, -1):
        in_it = {number for _, number, at in began if at == below}
        gone = {number for _, number, at in began if at == below + 1}
        if len(gone) == bracket.rungs[below + 1].trials:
            return False
        if len(results[below]) < len(in_it) or any(
            e is not None and number not in gone for number, e in results[below].items()
        ):
            return True
    return begun < bracket.rungs[0].trials


def told(of: Outcome) -> Callable[[int, int], Result]:
    return lambda number, stop: Result(number, of(number, stop))


@settings(max_examples=60, deadline=None)
@given(brackets(), st.integers(0, 10**6), st.sampled_from([0, 64, 200]))
def test_the_paper_is_that_of_a_plain_simulation(
    simulated: ModuleType, bracket: AsyncBracket, salt: int, diverging: int
) -> None:
    of, asha = simulated.outcome(salt, diverging=diverging), Asha(bracket)
    asha.follow(told(of))
    began = plainly(bracket, of)
    for rung in range(len(bracket.rungs)):
        assert list(asha.members(rung)) == [number for _, number, at in began if at == rung]
    assert len(asha.ended) == len(began)
    assert not list(asha.running)


@settings(max_examples=60, deadline=None)
@given(brackets(), st.integers(0, 10**6), st.sampled_from([0, 64, 200]))
def test_promotions_are_few_and_the_best_and_nobody_s_twice(
    simulated: ModuleType, bracket: AsyncBracket, salt: int, diverging: int
) -> None:
    of, asha = simulated.outcome(salt, diverging=diverging), Asha(bracket)
    asha.follow(told(of))
    steps = Counter((number, rung) for number, rung, _ in asha.ended)
    assert max(steps.values()) == 1
    for rung, promoted in enumerate(asha.promoted):
        final = sum(at == rung for _, at, _ in asha.ended)
        for place, (number, when) in enumerate(promoted.items()):
            there = sorted((e, n) for n, at, e in asha.ended[:when] if at == rung and e is not None)
            results = sum(at == rung for _, at, _ in asha.ended[:when])
            best = [n for _, n in there]
            if results < final:
                assert place + 1 <= results // bracket.eta
                assert number in best[: results // bracket.eta]
            assert number in best, "it had a result, and no divergence"
        assert len(promoted) <= bracket.rungs[rung + 1].trials
        finite = sum(at == rung and e is not None for _, at, e in asha.ended)
        assert len(promoted) == min(finite, bracket.rungs[rung + 1].trials), "none too few in the end"


@settings(max_examples=60, deadline=None)
@given(brackets(), st.integers(0, 10**6), st.sampled_from([0, 64, 200]), st.integers(0, 10**6))
def test_any_order_of_results_and_any_kill_gives_the_same_search(
    simulated: ModuleType, bracket: AsyncBracket, salt: int, diverging: int, order: int
) -> None:
    of, dice = simulated.outcome(salt, diverging=diverging), random.Random(order)
    whole = Asha(bracket)
    whole.follow(told(of))
    rows: list[TrialRow] = []
    coordinator = Coordinator([bracket])
    ended: dict[int, str] = {}
    trained = []
    left = iterations_left([bracket], rows)
    while jobs := coordinator.ready_jobs(rows):
        assert jobs == ready_jobs([bracket], rows), "what it remembers changes nothing"
        assert 1 <= len(jobs) <= bracket.lag
        assert [job.number for job in jobs if job.number >= len(rows)] == sorted(
            job.number for job in jobs if job.number >= len(rows)
        ), "new trials in the order of their numbers, those without a row last"
        for job in [job for job in jobs if job.number <= len(rows)][: dice.randint(1, 3)]:
            assert job.start == (max(rows[job.number].errors, default=0) if job.number < len(rows) else 0)
            trained.append((job.number, job.start, job.stop))
            rows = simulated.after(rows, job, of)
        if dice.random() < 0.2:
            coordinator = Coordinator([bracket])
        now = coordinator.endings(rows)
        assert ended.items() <= now.items(), "an ending was taken back"
        ended = dict(now)
        assert iterations_left([bracket], rows) <= left
        left = iterations_left([bracket], rows)
    stops = [0, *(rung.iterations for rung in bracket.rungs)]
    assert sorted(trained) == sorted((number, stops[rung], stops[rung + 1]) for number, rung, _ in whole.ended)
    assert left == 0
    counts = status([bracket], rows)
    assert (counts.running, len(counts.trials)) == (0, bracket.rungs[0].trials)
    for row in rows:
        far = max(row.errors, default=0)
        expected = "diverged" if row.diverged_at is not None else "finished" if far == stops[-1] else "dropped"
        assert ended[row.number] == expected
    assert counts.promoted == len(whole.promoted[0])


@settings(max_examples=30, deadline=None)
@given(brackets(), st.integers(0, 10**6))
def test_who_is_dropped_at_once_would_not_have_been_promoted(
    simulated: ModuleType, bracket: AsyncBracket, salt: int
) -> None:
    of = simulated.outcome(salt, diverging=20)
    rows: list[TrialRow] = []
    whole = Asha(bracket)
    whole.follow(told(of))
    most = sum(rung.trials for rung in bracket.rungs[1:])
    while jobs := ready_jobs([bracket], rows):
        rows = simulated.after(rows, jobs[0], of)
        ended = endings([bracket], rows)
        for state in list(rungs([bracket], rows))[:-1]:
            assert not set(state.stopped) & whole.promoted[state.index].keys()
        # Few checkpoints are kept: of each rung those that are promoted, or may be yet.
        kept = [row for row in rows if row.errors and row.number not in ended]
        assert len(kept) <= most + bracket.lag


def test_a_small_paper_by_hand() -> None:
    # Two workers on paper; 4 trials of 1 iteration, 2 of 2, 1 of 4; errors are the numbers, and trial 0 is the worst.
    (bracket,) = async_plan(4, 1, 2, 2, 4)
    asha = Asha(bracket)
    asha.follow(told(lambda number, stop: float(number or 9)))
    # Time 1: 0 and 1 have ended, so one of the two goes on: 1, and 2 begins. Time 2: 2 and 1 have ended, whose rung has
    # one result only; 3 begins alone. Time 3: four results in the first rung, so 2 goes on, too. Time 4: 1 goes on.
    assert [(number, rung) for number, rung, _ in asha.ended] == [
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 0),
        (3, 0),
        (2, 1),
        (1, 2),
    ]
    assert asha.seen == [0, 0, 2, 4]
    assert asha.promoted == [{1: 2, 2: 5}, {1: 6}]


def test_as_many_iterations_as_hyperband() -> None:
    for longest, least in ((81, 1), (10_000, 123), (600, 25)):
        ours = trained_iterations(async_plan(longest, least, 3, 16)).continued
        theirs = trained_iterations(plan(longest, least, 3)).continued
        assert 0.8 < ours / theirs < 1.2


def test_too_few_trials() -> None:
    assert [rung.trials for rung in async_plan(27, 1, 3, 4, 27)[0].rungs] == [27, 9, 3, 1]
    with pytest.raises(UsageError, match="`trials`=26 is too few: one of 27 gets to 27 iterations"):
        async_plan(27, 1, 3, 4, 26)


def test_a_trial_sees_what_is_there_on_paper_when_it_begins(simulated: ModuleType) -> None:
    of = simulated.outcome(5)
    (bracket,) = async_plan(27, 1, 3, 4, 40)
    observations = AsyncObservations(bracket)
    rows: list[TrialRow] = []
    begins = [0]
    while jobs := ready_jobs([bracket], rows):
        begins.append(observations.begins(rows))
        assert begins[-1] == AsyncObservations(bracket).begins(rows)
        assert all(job.number < begins[-1] for job in jobs), "what is ready has its proposal"
        rows = simulated.after(rows, jobs[-1] if jobs[-1].number <= len(rows) else jobs[0], of)
    assert begins == sorted(begins)
    assert observations.begins(rows) == 40
    seen = [observations.seen_by(number) for number in range(40)]
    assert seen == sorted(seen)
    assert seen[:4] == [0] * 4
    for number in range(4, 40):
        there = observations.first(seen[number], rows)
        assert sum(observation.iterations == 1 for observation in there) >= number - 3
        promoted = {o.number for o in there if o.iterations > 1}
        overtaken = observations.overtaken(there, 3)
        assert not promoted & set(overtaken)
        assert not overtaken or {o.number for o in there} - set(overtaken) >= promoted
    with pytest.raises(AssertionError, match="results are asked for"):
        AsyncObservations(bracket).first(1, [])
