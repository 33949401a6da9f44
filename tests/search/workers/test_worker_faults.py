"""Worker processes and trainings that fail, are killed, hang or are greedy: what a search makes of it."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from numbers_objective import Numbers
from numbers_search import Told, costless, linux, run, table, trained

from stantune.errors import DataError, StantuneError, StanWarning, UsageError
from stantune.protocols import Segment
from stantune.search.plan.values import Final, SegmentFailure, Training
from stantune.search.session import HOPELESS
from stantune.search.state import SearchState
from stantune.search.telling.progress import Progress
from stantune.search.workers import workers as workers_module
from stantune.search.workers.executors import Ended, Failure
from stantune.search.workers.places import Held, Worker
from stantune.search.workers.worker import Moved
from stantune.search.workers.workers import Limits, Workers


def test_worker_killed_once(undisturbed: SearchState, tmp_path: Path) -> None:
    told = Told()
    state = run(Numbers(tmp_path / "w", {4: "once kill", -1: "once kill"}), watcher=told)
    assert state.complete
    assert table(state) == table(undisturbed)
    cause = "its worker process was killed by SIGKILL"
    assert told.failures == [(4, cause, False), (None, cause, False)]
    assert state.rows[4].failures == (SegmentFailure(3, cause),)
    assert sum(len(row.failures) for row in state.rows) == 1
    assert set(Counter(trained(tmp_path / "w")).values()) == {1}, "it went on from its checkpoint"


def test_a_warning_ends_no_search_of_a_program_that_makes_them_errors(undisturbed: SearchState, tmp_path: Path) -> None:
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", StanWarning)
        state = run(Numbers(tmp_path / "w", {0: "warn"}), said=said)
    assert table(state) == table(undisturbed)
    assert said == ["nothing is kept"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("fault", "cause", "limits"),
    [
        ("kill", "its worker process was killed by SIGKILL", None),
        ("exit", "its worker process ended with exit code 5", None),
        ("raise", "RuntimeError: these shapes do not fit (numbers_objective.py:", None),
        ("hang", "no iteration and no evaluation was done within 0.5 s, its time-out", Limits(seconds=0.5)),
        pytest.param("eat", "its process used more than 200 MB of memory", Limits(bytes=200_000_000), marks=linux),
    ],
)
@pytest.mark.parametrize("retries", [0, 2])
def test_trial_that_fails_for_good(
    undisturbed: SearchState,
    tmp_path: Path,
    fault: str,
    cause: str,
    limits: Limits | None,
    retries: int,
) -> None:
    told, place = Told(), tmp_path / "w"
    state = run(Numbers(place, {0: fault, 6: fault}), limits=limits, retries=retries, watcher=told)
    assert state.complete, "the search goes on without"
    for number in (0, 6):
        row = state.rows[number]
        assert row.failed is not None
        assert row.failed.startswith(cause)
        assert (row.errors, row.diverged_at) == ({}, None), "it did not diverge"
        assert [failure.stop for failure in row.failures] == [3] * (retries + 1)
        assert [for_good for which, _, for_good in told.failures if which == number] == [False] * retries + [True]
    others = [row for row in state.rows if row.number not in (0, 6)]
    assert all(row.failed is None and not row.failures for row in others)
    assert len(others) == len(undisturbed.rows) - 2
    again = run(Numbers(place), 0)
    assert table(again) == table(state), "what failed for good stays so"
    assert not (place / "checkpoints" / "trial-000000.pt").exists()


def test_retries_are_counted_across_runs(tmp_path: Path) -> None:
    place, failures = tmp_path / "w", 0

    class Impatient(Told):
        def failure(self, job: Training, cause: str, for_good: bool) -> None:
            super().failure(job, cause, for_good)
            raise KeyboardInterrupt

    for _ in range(3):
        told = Impatient()
        with pytest.raises(KeyboardInterrupt):
            run(Numbers(place, {0: "raise"}), 0, watcher=told)
        failures += len(told.failures)
    state = run(Numbers(place), 0)
    assert failures == 3
    assert len(state.rows[0].failures) == 3
    assert state.rows[0].failed is not None


def test_when_all_fail_it_is_not_the_settings(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path, dict.fromkeys(range(20), "raise"))
    with pytest.raises(StantuneError, match=rf"the first {HOPELESS} trials.*these shapes do not fit.*`fresh`"):
        run(numbers, 0, retries=1)


def test_final_training_that_fails_is_tried_again_by_the_next_run(undisturbed: SearchState, tmp_path: Path) -> None:
    state = run(Numbers(tmp_path / "w", {-1: "raise"}))
    assert (state.complete, state.final) == (False, None)
    assert state.final_failure is not None
    assert state.final_failure.startswith("RuntimeError: these shapes do not fit")
    again = run(Numbers(tmp_path / "w"))
    assert (again.complete, again.final_failure) == (True, None)
    assert again.final is not None


def test_finalists_are_trained_side_by_side(tmp_path: Path) -> None:
    alone = run(Numbers(tmp_path / "alone"), 0, finalists=3)
    told, place = Told(), tmp_path / "w"
    numbers = Numbers(place, {-2: "once kill"}, pause=0.002)
    together = run(numbers, 3, finalists=3, watcher=told)
    assert max(sum(isinstance(job, Final) for job in jobs) for jobs in told.together) == 3
    assert told.failures == [(None, "its worker process was killed by SIGKILL", False)]
    assert len(together.finals) == 3
    for rank, final in together.finals.items():
        assert costless(final) == costless(alone.finals[rank])
    assert together.winner == alone.winner


def test_one_finalist_that_fails_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    place = tmp_path / "w"
    state = run(Numbers(place, {-1: "raise"}), finalists=3)
    assert (state.complete, state.winner, sorted(state.finals)) == (False, None, [1, 2])
    assert state.final_failure is not None
    (place / "log").unlink()
    again = run(Numbers(place), finalists=3)
    assert (again.complete, again.final_failure, sorted(again.finals)) == (True, None, [0, 1, 2])
    # Its first iteration is in the checkpoint of the tries before.
    assert trained(place) == [(-1, at) for at in range(2, 28)]


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_checkpoint_is_trained_again_from_the_first_iteration(
    undisturbed: SearchState, tmp_path: Path, workers: int
) -> None:
    place = tmp_path / "w"

    class Damaging(Told):
        def job(self, job: Training, progress: Progress) -> None:
            super().job(job, progress)
            if job.start == 9 and not self.failures:
                (place / "checkpoints" / f"trial-{job.number:06d}.pt").write_text("?")

    told = Damaging()
    state = run(Numbers(place), workers, watcher=told)
    assert state.complete
    assert table(state) == table(undisturbed)
    [(number, cause, for_good)] = told.failures
    assert (cause, for_good) == ("its checkpoint was cut short or altered", False)
    twice = [which for which, times in Counter(trained(place)).items() if times == 2]
    assert twice == [(number, at) for at in range(1, 10)]


def test_idle_worker_killed_costs_nothing(tmp_path: Path) -> None:
    segments = [
        Segment(number, {"lr": number}, 0, 2, 0, tmp_path / f"checkpoints/{number}", bracket=0) for number in range(2)
    ]

    def finish(executor: Workers) -> Any:
        return executor.finished(lambda: False, lambda segment, done: None)

    with Workers(Numbers(tmp_path).order, 1) as executor:
        executor.submit(segments[0])
        [first] = finish(executor)
        process = executor._places[0].worker.process  # type: ignore[union-attr]
        process.kill()
        process.join()
        executor.submit(segments[1])
        [second] = finish(executor)
    assert (first.segment, second.segment) == tuple(segments)
    assert second.how.iterations == 2


def test_each_iteration_is_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own, so that no busy machine makes it fail."""
    now = 0.0
    monkeypatch.setattr(workers_module, "time", SimpleNamespace(monotonic=lambda: now))
    executor, (ours, theirs), moved = Workers(Numbers().order, 1, Limits(seconds=1.5)), Pipe(), list[int]()
    segment = Segment(0, {"lr": 0.5}, 0, 9, 0, tmp_path / "trial.pt", bracket=0)
    executor._places[0].worker = Worker(Mock(exitcode=0), ours, True, segments={0: Held(segment)}, heard=now)

    def look() -> list[Ended]:
        # Sooner than after AWAY_SECONDS, which would count as time that this process was stopped for.
        nonlocal now
        now += 0.9
        return list(executor._listen(lambda segment, done: moved.append(done)))

    for done in range(1, 5):
        theirs.send(Moved(done))
        assert not look(), "it goes on, in all for longer than the limit"
    assert moved == [1, 2, 3, 4]
    assert not look()
    [ended] = look()
    assert ended.segment is segment
    assert ended.how == Failure("no iteration and no evaluation was done within 1.5 s, its time-out")


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        ("no data", DataError, "there are no data in /nowhere; fetch them"),
        ("raise", StantuneError, "a worker process cannot begin .ValueError: no such thing"),
        ("killed", StantuneError, "3 worker processes in a row ended as they started .*SIGKILL.*fewer `workers`"),
    ],
)
def test_worker_that_cannot_begin(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setattr(workers_module, "MOST_STILLBORN", 3)
    with pytest.raises(error, match=said):
        run(Numbers(tmp_path, broken=broken))


def test_memory_limit_needs_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="`trial_memory` works on Linux alone"):
        Limits(bytes=1)
