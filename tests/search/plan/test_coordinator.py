"""The coordinator against a brute-force Hyperband, in any order of jobs."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.search.plan.coordinator import endings, ready_jobs, rungs
from stantune.search.plan.hyperband import Bracket, plan
from stantune.search.plan.standings import Standing, incumbent, iterations_trained, ranking, status
from stantune.search.plan.values import TrialRow

PLANS = st.builds(
    plan,
    st.integers(3, 27),
    st.integers(1, 3),
    st.integers(2, 4),
    st.sampled_from(["algorithm1", "table1"]),
)


def brute_force(brackets: tuple[Bracket, ...], of: Any) -> tuple[set[tuple[int, int, int]], dict[int, str]]:
    """Run each bracket as the paper writes it; return all (number, start, stop) trained and how all ended."""
    trained, ended, first = set(), {}, 0
    for bracket in brackets:
        alive = list(range(first, first + bracket.rungs[0].trials))
        first += len(alive)
        start = 0
        for i, rung in enumerate(bracket.rungs):
            trained |= {(number, start, rung.iterations) for number in alive}
            errors = {number: of(number, rung.iterations) for number in alive}
            ended |= {number: "diverged" for number in alive if errors[number] is None}
            ranked = sorted((errors[number], number) for number in alive if errors[number] is not None)
            keep = bracket.rungs[i + 1].trials if i + 1 < len(bracket.rungs) else 0
            alive = [number for _, number in ranked[:keep]]
            end = "dropped" if i + 1 < len(bracket.rungs) else "finished"
            ended |= {number: end for _, number in ranked[keep:]}
            start = rung.iterations
    return trained, ended


def bracket_of(plan: tuple[Bracket, ...], number: int) -> Bracket:
    """Return the bracket of a trial number: a plan's first bracket has the numbers from 0 on, and so forth."""
    first = 0
    for bracket in plan:
        first += bracket.rungs[0].trials
        if number < first:
            return bracket
    raise AssertionError(f"the plan ends before trial {number}")


@given(PLANS, st.integers(0, 10**6), st.sampled_from([0, 64, 200]), st.integers(0, 10**6))
def test_any_order_of_jobs_gives_the_paper_s_hyperband(
    simulated: ModuleType, brackets: tuple[Bracket, ...], salt: int, diverging: int, order: int
) -> None:
    of = simulated.outcome(salt, diverging=diverging)
    shuffle = random.Random(order)
    rows: list[TrialRow] = []
    trained = set()
    while jobs := ready_jobs(brackets, rows):
        # A few of the ready jobs, in any order, as if other workers were slower or a kill came between.
        for job in shuffle.sample(jobs, shuffle.randint(1, len(jobs))):
            row = next((row for row in rows if row.number == job.number), None)
            assert bracket_of(brackets, job.number).s == job.bracket
            assert job.start == max(row.errors, default=0) if row else job.start == 0
            if job.start:
                before = [rung.trials for rung in bracket_of(brackets, job.number).rungs if rung.iterations < job.stop]
                peers = [other for other in rows if other.bracket == job.bracket]
                # Closed before it begins: all trials of the first rung are there, and none is still on its way.
                assert len(peers) == before[0]
                assert not [
                    peer for peer in ready_jobs(brackets, rows) if peer.bracket == job.bracket and peer.stop < job.stop
                ]
            key = (job.number, job.start, job.stop)
            assert key not in trained
            trained.add(key)
            rows = simulated.after(rows, job, of)
    all_trained, all_ended = brute_force(brackets, of)
    assert trained == all_trained
    assert endings(brackets, rows) == all_ended
    assert iterations_trained(rows) == sum(
        (start + 1 if of(number, stop) is None else stop) - start for number, start, stop in trained
    )


@given(PLANS, st.integers(0, 10**6), st.integers(0, 10**6))
def test_status_counts_every_trial_once(
    simulated: ModuleType, brackets: tuple[Bracket, ...], salt: int, order: int
) -> None:
    of, shuffle = simulated.outcome(salt), random.Random(order)
    rows: list[TrialRow] = []
    ended_before: dict[int, str] = {}
    while jobs := ready_jobs(brackets, rows):
        rows = simulated.after(rows, shuffle.choice(jobs), of)
        now = status(brackets, rows)
        assert set(now.trials) == {row.number for row in rows}
        assert now.running + now.dropped + now.diverged + now.finished == len(rows)
        ended = endings(brackets, rows)
        assert ended_before.items() <= ended.items(), "an ending was taken back"
        ended_before = dict(ended)
        for number, where in now.trials.items():
            assert ended.get(number, where) == where
    assert now.running == 0
    survived_a_rung = {number for state in rungs(brackets, rows) if state.start for number, _ in state.results}
    assert now.promoted == len(survived_a_rung)


def test_a_search_in_which_all_diverge_ends() -> None:
    brackets = plan(27, 1, 3)
    rows = [TrialRow(job.number, job.bracket, {}, diverged_at=1) for job in ready_jobs(brackets, [])]
    assert ready_jobs(brackets, rows) == []
    assert set(endings(brackets, rows).values()) == {"diverged"}
    assert incumbent(rows) is None


def test_jobs_come_in_the_order_of_bracket_rung_and_number() -> None:
    brackets = plan(9, 1, 3)  # 9/3/1 trials, then 5/1, then 3
    jobs = ready_jobs(brackets, [])
    assert [job.number for job in jobs] == list(range(17))
    assert [job.bracket for job in jobs] == [2] * 9 + [1] * 5 + [0] * 3
    rows = [TrialRow(number, 2, {}, {1: 9.0 - number}) for number in range(9)]
    jobs = ready_jobs(brackets, rows)
    assert [(job.number, job.start, job.stop) for job in jobs[:4]] == [(6, 1, 3), (7, 1, 3), (8, 1, 3), (9, 0, 3)]


def test_ranking() -> None:
    rows = [
        TrialRow(0, 2, {"lr": 0}, {1: 50.0, 3: 20.0}),
        TrialRow(1, 2, {"lr": 1}, {1: 20.0}),
        TrialRow(2, 2, {"lr": 2}, {1: 20.0, 3: 20.0, 9: 30.0}),
        TrialRow(3, 2, {"lr": 3}, {1: 1.0}, diverged_at=2),
        TrialRow(4, 2, {"lr": 4}, {}, diverged_at=1),
        TrialRow(5, 2, {"lr": 5}),
        TrialRow(6, 2, {"lr": 6}, {1: 19.0}),
    ]
    assert [(standing.number, standing.iterations) for standing in ranking(rows)] == [
        (6, 1),
        (0, 3),
        (1, 1),
        (2, 9),
    ]
    assert incumbent(rows) == Standing(6, {"lr": 6}, 19.0, 1)


def test_a_row_of_another_plan_is_an_error() -> None:
    with pytest.raises(AssertionError, match="trial 0 is not of bracket 2"):
        ready_jobs(plan(9, 1, 3), [TrialRow(0, 1, {})])
