"""Searches of numbers in worker processes, and what they leave: the table, the log, those that are still alive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers

from stantune.outcome import Cost
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.plan.values import Final, FinalResult, Training
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Silent
from stantune.search.workers.executors import InProcess
from stantune.search.workers.workers import Limits, Workers

SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3)
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


class Told(Silent):
    """Keeps what a watcher is told of failures, and which jobs ran side by side."""

    def __init__(self) -> None:
        self.failures: list[tuple[int | None, str, bool]] = []
        self.together: list[list[Training]] = []

    def job(self, job: Training, progress: Progress) -> None:
        self.together.append(list(progress.running))

    def failure(self, job: Training, cause: str, for_good: bool) -> None:
        self.failures.append((None if isinstance(job, Final) else job.number, cause, for_good))


def run(
    numbers: Numbers,
    workers: int = 2,
    limits: Limits | None = None,
    finalists: int = 1,
    together: int = 1,
    said: list[str] | None = None,
    **options: Any,
) -> SearchState:
    """Run the search in the objective's place, in worker processes or in this one where `workers` is 0."""
    assert numbers.place is not None
    numbers.place.mkdir(exist_ok=True)
    settings = replace(SETTINGS, finalists=finalists)
    directory = SearchDirectory(numbers.place)
    with directory.locked():
        if not workers:
            return search(numbers, settings, directory, InProcess(numbers.order(0)), **options)
        say = (lambda line: None) if said is None else said.append
        with Workers(numbers.order, workers, limits, together=together, say=say) as executor:
            return search(numbers, settings, directory, executor, **options)


def table(state: SearchState) -> list[Any]:
    """The trial table, without costs and what went wrong on the way."""
    return [(row.number, row.bracket, row.params, dict(row.errors), row.diverged_at, row.failed) for row in state.rows]


def trained(place: Path) -> list[tuple[int, int]]:
    """Every iteration that was trained: trial and iteration."""
    return [(int(trial), int(at)) for _, trial, at in map(str.split, (place / "log").read_text().splitlines())]


def costless(final: FinalResult | None) -> FinalResult:
    """The same without its cost, which is another each time."""
    assert final is not None
    return replace(final, cost=Cost())


def processes(place: Path) -> Iterator[int]:
    """The workers that have trained anything so far and are still alive."""
    log = place / "log"
    for process in {int(line.split()[0]) for line in log.read_text().splitlines()} if log.exists() else ():
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            yield process
