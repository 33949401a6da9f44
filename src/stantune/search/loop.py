"""The search itself: asks the coordinator what to run, has it run, records the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from stantune.problems import Problem
from stantune.search.coordinator import Job, TrialRow, endings, incumbent, ready_jobs
from stantune.search.directory import SearchDirectory
from stantune.search.executors import Executor
from stantune.search.hyperband import Bracket
from stantune.search.progress import Progress
from stantune.search.sampling import sample
from stantune.search.settings import SearchSettings
from stantune.search.store import Store
from stantune.search.watching import Silent, Watcher
from stantune.train import Outcome


class SearchState(NamedTuple):
    """What a search has come to.

    Attributes:
        plan: its brackets.
        rows: the trial table.
        final: the final training: params, iterations, errors {split: percent}, diverged_at, cost; None before it.
        complete: all that the plan asks for is done.
    """

    plan: tuple[Bracket, ...]
    rows: list[TrialRow]
    final: Mapping[str, Any] | None
    complete: bool


def search(
    problem: Problem,
    settings: SearchSettings,
    directory: SearchDirectory,
    executor: Executor,
    *,
    watcher: Watcher | None = None,
    stop_early: Callable[[], bool] = lambda: False,
) -> SearchState:
    """Run a search, or go on with the one that the directory holds, until it is done or told to stop.

    Call it under `directory.locked()`. It may be killed at any moment: what was recorded stays, and the same call goes
    on from there to the same result.

    Args:
        problem: what is searched.
        settings: what the result depends on.
        directory: where it is kept.
        executor: who trains.
        watcher: is told what happens.
        stop_early: asked after each iteration; when true the search ends in good order.

    Returns:
        What it has come to.

    Raises:
        UsageError: the directory holds a search with other settings.
        StoreError: the trial table cannot be used.
        CheckpointError: a checkpoint is damaged or another trial's.
    """
    settings.check(problem)
    plan = settings.plan()
    with Store.open(directory.url, directory.study, settings.identity(problem), problem.space) as store:
        directory.note_storage()
        runner = _Runner(problem, settings, store, executor, directory, watcher or Silent(), stop_early)
        complete = runner.run_trials(plan) and runner.run_final()
        return SearchState(plan, store.rows(), store.final(), complete)


class _Runner:
    def __init__(
        self,
        problem: Problem,
        settings: SearchSettings,
        store: Store,
        executor: Executor,
        directory: SearchDirectory,
        watcher: Watcher,
        stop_early: Callable[[], bool],
    ) -> None:
        self._problem = problem
        self._settings = settings
        self._store = store
        self._executor = executor
        self._directory = directory
        self._watcher = watcher
        self._stop_early = stop_early
        self._progress = Progress(settings.plan(), settings.max_iterations)
        self._recorded = time.perf_counter()

    def run_trials(self, plan: tuple[Bracket, ...]) -> bool:
        """Run rung after rung; return whether all are done."""
        while True:
            rows = self._store.rows()
            self._tidy(plan, rows)
            self._progress.update(rows)
            jobs = ready_jobs(plan, rows)
            if not jobs:
                return True
            # One rung at a time: a bracket is done before the next begins, and few checkpoints are kept.
            for job in (job for job in jobs if (job.bracket, job.stop) == (jobs[0].bracket, jobs[0].stop)):
                if self._stop_early() or not self._run_trial(job):
                    return False

    def run_final(self) -> bool:
        """Train the best setting from scratch, unless that is done or nothing was found; return whether it is done."""
        best = incumbent(self._store.rows())
        if best is None or self._store.final() is not None:
            return True
        if self._stop_early():
            return False
        self._progress.begin(None, self._store.rows())
        self._watcher.job(None, self._progress)
        outcome = self._executor.final(best.params, self._stop_early, self._moved)
        if outcome.interrupted:
            return False
        self._store.set_final(
            {
                "params": dict(best.params),
                "iterations": outcome.iterations,
                "errors": dict(outcome.errors),
                "diverged_at": outcome.diverged_at,
                "cost": self._cost(outcome),
            }
        )
        return True

    def _run_trial(self, job: Job) -> bool:
        if job.number == len(self._store.rows()):
            params = sample(self._problem.space, self._settings.sampler, self._settings.seed, job.number)
            self._store.create(job.number, params, job.bracket)
        rows = self._store.rows()
        self._progress.begin(job, rows)
        self._watcher.job(job, self._progress)
        outcome = self._executor.trial(job, rows[job.number].params, self._stop_early, self._moved)
        if outcome.interrupted:
            return False
        cost = self._cost(outcome)
        if outcome.diverged_at is not None:
            self._store.record_divergence(job.number, job.stop, outcome.diverged_at, cost)
        else:
            self._store.record(job.number, job.stop, outcome.errors["validation"], cost)
        return True

    def _tidy(self, plan: tuple[Bracket, ...], rows: list[TrialRow]) -> None:
        ended = endings(plan, rows)
        self._store.close(ended)
        for number, ending in ended.items():
            if ending != "finished":
                self._directory.checkpoint(number).unlink(missing_ok=True)

    def _moved(self, done: int) -> None:
        self._progress.iteration(done)
        self._watcher.iteration(self._progress)

    def _cost(self, outcome: Outcome) -> dict[str, float]:
        """Return what a job took, with the time since the last one that was neither training nor evaluation."""
        cost = asdict(outcome.cost)
        now = time.perf_counter()
        spent = outcome.cost.exact_seconds + outcome.cost.reduced_seconds + outcome.cost.evaluation_seconds
        cost["coordination_seconds"] = max(now - self._recorded - spent, 0.0)
        self._recorded = now
        return cost
