"""Whole searches of ours, timed, in the process that asks for them: the other side of optuna_side.py."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.ways import Searched, searched, with_way
from benchmarks.searches.quality_results import EXACT, Found
from stantune.errors import UsageError
from stantune.outcome import Outcome
from stantune.protocols import Place, Segment, StopEarly
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.search.workers.executors import Ended, Executor, Watch
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers

ETA = 3


def searched_by(problem: str, iterations: int, seed: int, side: str, finalists: int = 1) -> Searched:
    """Return what our search of a side searches, and how: "exact", "native", or a way; see ways.with_way."""
    least = default_min_resource(iterations, ETA)
    settings = SearchSettings(seed, iterations, least, ETA, finalists=finalists)
    if side == EXACT:
        return searched(problem, settings, None)
    if not side.startswith(("native", "stan")):
        raise UsageError(f"there is no side {side}: there are {EXACT}, native, stan, stan:auto, stan:RATE,…, stan/Z")
    return with_way(settings, problem, "1" if side == "native" else side)


class Spawned(Order):
    """An order whose workers are new processes, each with its own imports and its own data."""

    @property
    def copies(self) -> bool:
        """See Order."""
        return False


class Timed:
    """An executor that notes when results come in; see stantune.search.workers.executors.Executor.

    Attributes:
        points: (seconds, validation error) of each trial that was judged by the whole validation set.
        seconds: until the last result of a trial.
        final_seconds: from there until the last result of a final training.
    """

    def __init__(self, executor: Executor, settings: SearchSettings) -> None:
        self._executor = executor
        self._settings = settings
        self._began = time.perf_counter()
        self.points: list[tuple[float, float]] = []
        self.seconds = 0.0
        self.final_seconds = 0.0

    @property
    def capacity(self) -> int:
        """See Executor."""
        return self._executor.capacity

    def submit(self, segment: Segment) -> None:
        """See Executor."""
        self._executor.submit(segment)

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """See Executor."""
        over = self._executor.finished(stop_early, watch)
        now = time.perf_counter() - self._began
        for segment, how in over:
            if not isinstance(how, Outcome):
                raise SystemExit(f"a training failed, and its time with it: {how.cause}")
            if segment.final:
                self.final_seconds = now - self.seconds
            else:
                self.seconds = now
                if how.diverged_at is None and self._settings.validation_share(segment.stop) == 1:
                    self.points.append((now, how.metrics["validation error"]))
        return over


def search_ours(found: Searched, workers: int, *, copies: bool = True) -> Found:
    """Run a whole search; `copies`: whether workers are copies of one process that has loaded what all need."""
    objective, settings = found
    order = (Order if copies else Spawned)(objective, Place(threads=1))
    with tempfile.TemporaryDirectory() as path:
        directory = SearchDirectory(Path(path))
        with directory.locked(), Workers(order, workers) as executor:
            timed = Timed(executor, settings)
            state = search(objective, settings, directory, timed)
    final = state.final
    if final is None:
        raise SystemExit(
            f"{objective.name}, {settings.max_resource} iterations, seed {settings.seed}: every trial diverged; give "
            "more iterations"
        )
    test_error = final.metrics.get("test error")
    return Found(timed.points, timed.seconds, timed.final_seconds, len(state.rows), dict(final.params), test_error)
