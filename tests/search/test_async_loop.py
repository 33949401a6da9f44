"""The search's loop asynchronously, with trainings that take no time: nobody idles, and no order of events matters."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers

from stantune.errors import UsageError
from stantune.outcome import Cost, Outcome
from stantune.parameters import Categorical, Float
from stantune.protocols import Segment, StopEarly
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.plan.coordinator import ready_jobs
from stantune.search.plan.values import Job, TrialRow, training_of
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table import studies
from stantune.search.workers.executors import Ended, Failure, Watch
from stantune.space import Space

SPACE = Space({"lr": Float(1e-4, 1.0, log=True), "momentum": Float(0.0, 1.0)})
FEW = Space({"lr": Categorical((0.1, 0.2, 0.3, 0.4, 0.5, 0.6))})
SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3, mode="async", trials=30, lag=8)


def error_of(segment: Segment) -> float | None:
    """Return an error that depends on the setting and the iterations, None where the trial diverges."""
    digest = hashlib.blake2b(f"{sorted(segment.params.items())}".encode(), digest_size=2).digest()
    return None if digest[0] < 64 and not segment.final else round(40 + digest[1] / 8 - math.log(segment.stop), 2)


class Shuffled:
    """Trains nothing, on `capacity` workers that end in any order, and now and then fail; see executors.Executor."""

    def __init__(self, capacity: int, directory: SearchDirectory, order: int, failing: float = 0.0) -> None:
        self.capacity = capacity
        self.trained: list[Segment] = []
        self.idle = 0
        self.looks = False
        self._directory = directory
        self._dice = random.Random(order)
        self._failing = failing
        self._segments: list[Segment] = []

    def submit(self, segment: Segment) -> None:
        assert len(self._segments) < self.capacity
        self._segments.append(segment)

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        if self.looks:
            self._look()
        segment = self._segments.pop(self._dice.randrange(len(self._segments)))
        if stop_early():
            return [Ended(segment, Outcome(0, {}, None, True, Cost()))]
        if self._dice.random() < self._failing:
            return [Ended(segment, Failure("these shapes do not fit"))]
        self.trained.append(segment)
        start, stop = segment.start, segment.stop
        if not segment.final:
            assert segment.checkpoint.exists() == bool(start), "it goes on where it was"
            segment.checkpoint.parent.mkdir(exist_ok=True)
            segment.checkpoint.touch()
        watch(segment, start + 1)
        error = error_of(segment)
        if error is None:
            return [Ended(segment, Outcome(start + 1, {}, start + 1, False, Cost()))]
        return [Ended(segment, Outcome(stop, {"error": error, "other": error}, None, False, Cost()))]

    def _look(self) -> None:
        """See to it that no worker is idle while a job is ready."""
        if len(self._segments) < self.capacity and not self._segments[0].final:
            self.idle += 1
            if self.idle % 8 == 1:
                _, rows = studies.table_of(self._directory.url, self._directory.study) or ({}, [])
                ready = {job for job in ready_jobs(SETTINGS.plan(), rows) if job.number >= len(rows) or new(rows, job)}
                assert ready <= {training_of(segment) for segment in self._segments}


def new(rows: Sequence[TrialRow], job: Job) -> bool:
    """Tell whether a trial's setting is its own; with an earlier one's it may wait for results of that."""
    return all(rows[job.number].params != row.params for row in rows[: job.number])


def never() -> bool:
    return False


def run(place: Path, space: Space, settings: SearchSettings, workers: int, order: int, **options: Any) -> Any:
    options.setdefault("stop_early", never)
    directory = SearchDirectory(place)
    executor = Shuffled(workers, directory, order, options.pop("failing", 0.0))
    executor.looks = options["stop_early"] is never
    with directory.locked():
        return search(Numbers(space=space), settings, directory, executor, **options), executor


def told(state: SearchState) -> list[Any]:
    return [(row.params, row.errors, row.diverged_at, row.taken) for row in state.rows] + [
        state.final and (state.final.params, state.final.metrics)
    ]


@pytest.mark.parametrize(("space", "sampler"), [(SPACE, "random"), (SPACE, "tpe"), (SPACE, "bohb"), (FEW, "random")])
def test_any_number_of_workers_any_order_and_any_kill(tmp_path: Path, space: Space, sampler: str) -> None:
    settings = SearchSettings(0, 27, 3, mode="async", trials=30, lag=8, sampler=sampler)
    alone, executor = run(tmp_path / "alone", space, settings, 1, 0)
    assert alone.complete
    assert alone.final is not None
    assert max(max(row.errors, default=0) for row in alone.rows) == 27
    jobs = [training_of(segment) for segment in executor.trained]
    assert len(jobs) == len(set(jobs)), "nothing is trained twice"
    assert any(row.taken for row in alone.rows) == (space is FEW)
    kept = {file.name for file in (tmp_path / "alone" / "checkpoints").iterdir()}
    assert kept == {f"trial-{row.number:06d}.pt" for row in alone.rows if 27 in row.errors and not row.duplicate}
    for workers in (2, 7):
        state, executor = run(tmp_path / f"by {workers}", space, settings, workers, workers)
        assert told(state) == told(alone)
        assert executor.idle > 0, "there were free workers to look at"
    asked = 0

    def stop_early() -> bool:
        nonlocal asked
        asked += 1
        return asked % (10 if space is FEW else 40) == 0

    times = 0
    while not (stopped := run(tmp_path / "stopped", space, settings, 3, times, stop_early=stop_early)[0]).complete:
        times += 1
    assert times > 1
    assert told(stopped) == told(alone)


def test_failures_end_trials_and_not_the_search(tmp_path: Path) -> None:
    state, _ = run(tmp_path, SPACE, SETTINGS, 3, 1, failing=0.5, retries=1)
    failed = [row for row in state.rows if row.failed is not None]
    assert state.complete or state.final_failure
    assert len(failed) > 3
    assert len(state.rows) == 30
    assert any(27 in row.errors for row in state.rows)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mode": "fast"}, "`mode`=fast is unknown; give sync or async"),
        ({"mode": "sync"}, "`trials`=30 is for `mode`=async"),
        ({"brackets": 1}, "`brackets`=1 is for Hyperband, and `mode`=async has one bracket"),
        ({"variant": "table1"}, "`variant`=table1 rounds the numbers of Hyperband's trials"),
        ({"trials": 8}, "`trials`=8 is too few: one of 9 gets to 27 iterations"),
    ],
)
def test_settings_that_cannot_be_had(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        replace(SETTINGS, **changes).check(Numbers(space=SPACE))


def test_another_search_s_directory(tmp_path: Path) -> None:
    run(tmp_path, SPACE, SETTINGS, 1, 0, stop_early=lambda: True)
    for other in (SearchSettings(0, 27, 3), SearchSettings(0, 27, 3, mode="async", trials=30, lag=9)):
        with pytest.raises(UsageError, match="is that of another search"):
            run(tmp_path, SPACE, other, 1, 0)
