"""Who trains: the ways of running a search's jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from stantune.problems import Problem, Splits
from stantune.search.coordinator import Job
from stantune.search.directory import SearchDirectory
from stantune.search.settings import SearchSettings
from stantune.train import Outcome, run


class Executor(Protocol):
    """Runs one job at a time; a job that was run before gives the same outcome again."""

    def trial(
        self, job: Job, params: Mapping[str, Any], stop_early: Callable[[], bool], watch: Callable[[int], None]
    ) -> Outcome:
        """Train a trial's segment and measure its validation error."""
        ...

    def final(self, params: Mapping[str, Any], stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        """Train the chosen setting exactly, from scratch, to the maximum; measure validation and test error."""
        ...


class InProcess:
    """Trains in this process, with all its threads."""

    def __init__(self, problem: Problem, settings: SearchSettings, splits: Splits, directory: SearchDirectory) -> None:
        self._problem = problem
        self._settings = settings
        self._splits = splits
        self._directory = directory

    def trial(
        self, job: Job, params: Mapping[str, Any], stop_early: Callable[[], bool], watch: Callable[[int], None]
    ) -> Outcome:
        """See Executor."""
        seed, stan = self._settings.trial_seed(job.number), self._settings.stan
        return run(
            self._problem,
            params,
            self._directory.checkpoint(job.number),
            job.start,
            job.stop,
            splits=self._splits,
            seed=seed,
            stan=None if stan is None else replace(stan, seed=seed),
            device=self._settings.device,
            stop_early=stop_early,
            watch=watch,
        )

    def final(self, params: Mapping[str, Any], stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        """See Executor."""
        return run(
            self._problem,
            params,
            self._directory.final,
            0,
            self._settings.max_iterations,
            splits=self._splits,
            seed=self._settings.final_seed(),
            evaluate=("validation", "test"),
            device=self._settings.device,
            stop_early=stop_early,
            watch=watch,
        )
