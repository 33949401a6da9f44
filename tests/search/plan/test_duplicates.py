"""Equal settings: trained once, taken over from the trial with the smaller number, in whatever order results come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stantune.outcome import Cost
from stantune.parameters import Categorical, Integer
from stantune.search.plan.asha import async_plan
from stantune.search.plan.coordinator import Coordinator, ready_jobs, take_overs
from stantune.search.plan.finals import finals_of, that_count
from stantune.search.plan.hyperband import plan
from stantune.search.plan.standings import Standing, incumbent, iterations_spared, iterations_trained, ranking
from stantune.search.plan.values import FinalResult, TrialRow
from stantune.search.settings import SearchSettings
from stantune.space import Space

# Six settings in all: with a conditional parameter, which two of three kinds do not have.
SMALL = Space(
    {"kind": Categorical(("a", "b", "c")), "n": Integer(1, 4)},
    when={"n": {"kind": "c"}},
)


def key(params: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(params.items()))


@settings(max_examples=5, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(27, 1, 3), (16, 2, 2)]),
    st.sampled_from(["random", "tpe"]),
    st.integers(1, 7),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1]),
)
def test_any_order_gives_the_same_and_nothing_is_trained_twice(
    played: ModuleType, seed: int, shape: tuple[int, int, int], sampler: str, workers: int, order: int, kill: float
) -> None:
    search = SearchSettings(seed, shape[0], shape[1], eta=shape[2], sampler=sampler)
    alone = played.play(SMALL, search)
    other = played.play(SMALL, search, workers=workers, order=order, kill=kill)
    assert other.rows == alone.rows
    assert len(alone.trained) == len(set(alone.trained))
    rows = alone.rows
    for row in rows:
        for stop, source in row.taken.items():
            theirs = rows[source]
            assert source < row.number
            assert theirs.params == row.params
            assert stop not in theirs.taken, "the source has trained it itself"
            if stop in row.errors:
                assert row.errors[stop] == theirs.errors[stop]
            else:
                assert row.diverged_at == theirs.diverged_at is not None
        # What is taken over comes first.
        assert all(stop < own for stop in row.taken for own in row.errors if own not in row.taken)
    # No two trials train the same setting to the same iteration.
    ends = [(key(rows[job.number].params), job.stop) for job in alone.trained]
    assert len(ends) == len(set(ends))
    # And none is trained beyond what an earlier one has shown to diverge.
    for job in alone.trained:
        twins = [row for row in rows[: job.number] if row.params == rows[job.number].params]
        assert all(twin.diverged_at is None for twin in twins)
    assert iterations_trained(rows) == sum(
        row.diverged_at if row.diverged_at is not None else max(row.errors) for row in rows if not row.duplicate
    )
    spared = iterations_spared(search.plan(), rows)
    assert spared.duplicates == sum(row.reached for row in rows if row.duplicate)
    assert {standing.number for standing in ranking(rows)} == {
        row.number for row in rows if row.diverged_at is None and not row.duplicate
    }


PLAN = plan(9, 1, 3)  # 9/3/1 trials to 1/3/9 iterations, then 5/1 to 3/9, then 3 to 9
FIRST = [TrialRow(n, 2, {"n": n}, {1: 20.0 + n}) for n in range(9)]


def test_a_result_is_taken_over_only_when_nobody_earlier_can_get_one() -> None:
    # 9 equals 0 and 8; 0 is promoted to 3 iterations, 8 was dropped.
    ninth = TrialRow(9, 1, {"n": 0}, equals=(0,))
    rows = [*FIRST, ninth]
    assert take_overs(PLAN, rows) == []
    jobs = ready_jobs(PLAN, rows)
    assert 9 not in [job.number for job in jobs]
    assert (0, 1, 3) in [(job.number, job.start, job.stop) for job in jobs]
    rows[0] = TrialRow(0, 2, {"n": 0}, {1: 20.0, 3: 15.0})
    (taken,) = take_overs(PLAN, rows)
    assert (taken.number, taken.stop, taken.source, taken.error, taken.diverged_at) == (9, 3, 0, 15.0, None)
    rows[0] = TrialRow(0, 2, {"n": 0}, {1: 20.0}, diverged_at=2)
    (taken,) = take_overs(PLAN, rows)
    assert (taken.error, taken.diverged_at) == (None, 2)


def test_what_a_dropped_trial_never_reached_is_trained_from_the_beginning() -> None:
    rows = [*FIRST, TrialRow(9, 1, {"n": 8}, equals=(8,))]
    assert take_overs(PLAN, rows) == []
    assert (9, 0, 3) in [(job.number, job.start, job.stop) for job in ready_jobs(PLAN, rows)]


def test_a_failure_is_not_taken_over() -> None:
    rows = [*FIRST, TrialRow(9, 1, {"n": 0}, equals=(0,))]
    rows[0] = TrialRow(0, 2, {"n": 0}, {1: 20.0}, failed="it was killed")
    assert take_overs(PLAN, rows) == []
    assert 9 in [job.number for job in ready_jobs(PLAN, rows)]


def test_taken_over_first_and_then_trained() -> None:
    row = TrialRow(9, 1, {"n": 0}, {3: 15.0, 9: 12.0}, costs={9: Cost()}, equals=(0,), taken={3: 0})
    assert (row.duplicate, row.trained) == (False, 9), "it was trained from its first iteration on"
    before = TrialRow(9, 1, {"n": 0}, {3: 15.0}, equals=(0,), taken={3: 0})
    assert (before.duplicate, before.trained, before.reached) == (True, 0, 3)
    lost = TrialRow(9, 1, {"n": 0}, {3: 15.0}, diverged_at=5, costs={9: Cost()}, equals=(0,), taken={3: 0})
    assert (lost.duplicate, lost.trained) == (False, 5)
    taken = TrialRow(9, 1, {"n": 0}, {3: 15.0}, diverged_at=5, equals=(0,), taken={3: 0, 9: 0})
    assert (taken.duplicate, taken.trained) == (True, 0)


def test_what_is_spared() -> None:
    rows = [
        TrialRow(0, 2, {}, {1: 20.0, 3: 15.0}, diverged_at=5),  # 4 of the 6 on the way to 9
        TrialRow(1, 2, {}, {}, diverged_at=0),  # the one of the first rung
        TrialRow(2, 2, {}, {1: 20.0}),
        TrialRow(3, 2, {}, {1: 20.0}, taken={1: 2}),
        TrialRow(4, 2, {}, {1: 20.0}, diverged_at=2, taken={1: 2, 3: 2}),
        TrialRow(5, 2, {}, {1: 20.0, 3: 18.0}, taken={1: 2}, costs={3: Cost()}),
        TrialRow(6, 2, {}),
    ]
    assert iterations_spared(PLAN, rows) == (4 + 1, 1 + 2)
    assert iterations_trained(rows) == 5 + 0 + 1 + 0 + 0 + 3


def test_a_duplicate_is_no_leader() -> None:
    rows = [*FIRST, TrialRow(9, 1, {"n": 0}, {3: 5.0}, equals=(0,), taken={3: 0})]
    best = incumbent(rows)
    assert best is not None
    assert best.number == 0
    with pytest.raises(StopIteration):
        next(standing for standing in ranking(rows) if standing.number == 9)


# `b` is never better than after its first iteration, and was trained for itself in three brackets.
REPEATED = [
    TrialRow(0, 2, {"kind": "b"}, {1: 6.0}),
    TrialRow(1, 2, {"kind": "a"}, {1: 7.0, 3: 5.0, 9: 4.0}),
    TrialRow(2, 2, {"kind": "c"}, {1: 20.0}),
    TrialRow(9, 1, {"kind": "b"}, {3: 8.0}, equals=(0,)),
]


def test_a_setting_has_one_place_in_the_ranking() -> None:
    assert [(one.number, one.iterations, one.surpassed) for one in ranking(REPEATED, 9)] == [
        (1, 9, False),
        (9, 3, False),
        (2, 1, False),
        (0, 1, True),
    ]
    assert incumbent(REPEATED[:1] + REPEATED[3:]) == Standing(9, {"kind": "b"}, 8.0, 3)
    assert [(final.rank, final.number) for final in finals_of(REPEATED, 3, 9)] == [(0, 1), (1, 9), (2, 2)]
    assert finals_of(REPEATED, 4, 9) == finals_of(REPEATED, 3, 9), "there are three settings"


def test_a_setting_that_diverged_is_behind_those_that_did_not() -> None:
    rows = [*REPEATED[:3], TrialRow(9, 1, {"kind": "b"}, diverged_at=2, equals=(0,))]
    assert [one.number for one in ranking(rows, 9)] == [1, 2, 0]


def test_final_trainings_of_a_setting_that_has_another_place_now_are_taken_as_they_are() -> None:
    def result(kind: str) -> FinalResult:
        return FinalResult({"kind": kind}, 9, {"error": 4.0}, None, Cost())

    assert sorted(that_count({0: result("a"), 1: result("b"), 2: result("b")}, REPEATED, 9, 3)) == [0, 1]
    assert sorted(that_count({0: result("a"), 3: result("b")}, REPEATED, 9, 4)) == [0, 3]


def test_one_early_pair_of_equal_settings_does_not_cost_all_trials_at_each_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (bracket,) = async_plan(27, 1, 3, 4, 120)
    coordinator, looked = Coordinator([bracket]), list[int]()
    rungs = Coordinator.rungs

    def counted(self: Coordinator, rows: Any) -> Any:
        looked.append(len(rows))
        return rungs(self, rows)

    monkeypatch.setattr(Coordinator, "rungs", counted)
    rows: list[TrialRow] = []
    told = 0
    while told < 100:
        for taken in coordinator.take_overs(rows):
            assert (taken.number, taken.stop, taken.source) == (1, 1, 0)
            rows[1] = replace(rows[1], errors={1: taken.error}, taken={1: 0})
        job = coordinator.ready_jobs(rows)[0]
        if job.number == len(rows):
            rows.append(TrialRow(job.number, bracket.s, {}, equals=(0,) if job.number == 1 else ()))
        if job.number != 1:
            # The later, the better: the pair is promoted only when all the others are.
            row = rows[job.number]
            rows[job.number] = replace(row, errors={**row.errors, job.stop: 200.0 - job.number})
            told += 1
    assert rows[1].taken == {1: 0}
    assert looked == [], "what the first of them came to is known"
