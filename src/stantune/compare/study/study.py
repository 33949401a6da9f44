"""study(): problems, ways and seeds to searches, one after the other, each in a folder of its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stantune.arguments import MOST_AT_ONCE, amount, function, path, shown, text, truth, whole
from stantune.compare.study.contract import STOCK, StudiedSearch, StudySummary
from stantune.compare.study.folder import (
    asked_to_stop,
    directory_of,
    locked,
    looked_at,
    searches_of,
    study_in,
    write,
    written,
)
from stantune.compare.study.joining import check_joinable, check_order, check_same, joined, kept, tell_as_before
from stantune.compare.study.lines import search_line
from stantune.compare.study.numbers import summary_of
from stantune.compare.study.predicted import predicted_speedups
from stantune.compare.study.problems import Length, Problem, each_of, problem_of, seeds_of
from stantune.compare.study.result import StudyResult
from stantune.compare.study.ways import Applied, Way, ways_of
from stantune.errors import NoEffectWarning, StantuneError, UsageError
from stantune.images.numbers_held_out import NOTE
from stantune.images.objective import ProblemObjective
from stantune.images.resizing import Resize
from stantune.objectives.command.objective import CommandObjective
from stantune.process.runtime import device_named, kept_process, tune_process
from stantune.quantities import parse_duration
from stantune.search.plan.finals import SCRATCH
from stantune.search.session import RETRIES
from stantune.search.settings import SearchSettings
from stantune.search.stopping import Stop
from stantune.search.telling.watching import Watcher
from stantune.search.workers.executors import Executor
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers
from stantune.stan.surgery import accelerate_
from stantune.texts import brief, one_line
from stantune.tuning.compose import compose
from stantune.tuning.surroundings import stopping
from stantune.tuning.tune import tune

WAYS = (STOCK, "native", "stan")


def study(
    objectives: object,
    *,
    ways: str | Sequence[str] = WAYS,
    seeds: int | Sequence[int] = 3,
    max_resource: Length = None,
    min_resource: int | None = None,
    eta: int = 3,
    brackets: int | None = None,
    validation: str = "all",
    finalists: int = 1,
    final: str = SCRATCH,
    final_resource: Length = None,
    fixed: Mapping[str, Any] | None = None,
    out: Path | str = "runs/study",
    data: Path | str | None = None,
    accept_changes: bool = False,
    workers: int = 1,
    threads: int | Literal["auto"] | None = None,
    device: str = "auto",
    precision: str | None = None,
    budget: float | str | None = None,
    retries: int = RETRIES,
    say: Callable[[str], None] = lambda line: None,
    watching: Callable[[], AbstractContextManager[Watcher | None]] | None = None,
    stop: Stop | None = None,
) -> StudyResult:
    """Search each problem in each way with each seed, and compare; the same call goes on where it was.

    With one seed all ways try the same settings, those of a random search, so that they are compared in pairs. The
    searches run one after the other (by seed, then problem, then way), so that whatever changes on a machine meets all
    ways; each trains in processes of its own. What is done is not trained again.

    Args:
        objectives: what is searched, one or several: names of built-in problems, FILE.py:NAME, Problems, Objectives.
        ways: how is trained, a list or one text with commas: "none" (stock PyTorch), "compiled" (the same under
            torch.compile), "native" (all entries, by native kernels), "native:no-winograd", "stan" with ":RATE",
            ":annealed", by rung ":auto" or ":RATE,…", "memo", "meprop:K", "meprop:unified:K", "resize:SHARE",
            "stan+meprop", "stan+resize"; stan and memo with "/Z" and "@LAYERS" behind them.
        seeds: how many, from 0 on; or which.
        max_resource: R of each search: a number, or a share of the problem's own length such as "1/10"; None for all.
        min_resource: see `tune`; so are all others that are not explained here.
        eta: of the searches.
        brackets: of the searches.
        validation: of the searches.
        finalists: of the searches.
        final: of the searches.
        final_resource: how long final trainings are, as `max_resource` says it: "1/1" for the problem's own length.
        fixed: parameters that have one value in all settings, of the problems that have them.
        out: the study's folder.
        data: where data sets of Problems are kept.
        accept_changes: go on although code has changed.
        workers: trainings side by side.
        threads: of each training.
        device: where to train.
        precision: in what numbers Problems are trained, in all ways.
        budget: seconds, or a text like "2h", after which it ends in good order, also beside a `stop`.
        retries: how often a training that failed is tried again.
        say: takes lines for the user.
        watching: gives what is told of all that happens in a search, in place of lines on how far it is.
        stop: whether to end in good order; without one Ctrl-C and SIGTERM do that, and then raise KeyboardInterrupt.

    Returns:
        What the study has come to.

    Raises:
        UsageError: something that was asked for cannot be done as asked, or a folder holds another search.
        StantuneError: the folder cannot be used. A search that cannot go on is noted, and the others are run.
        KeyboardInterrupt: it was asked for; all that was trained is kept, and the same call goes on.
    """
    seconds = None if budget is None else amount("budget", budget, parse_duration)
    folder = path("out", out)
    function("say", say, ("line",))
    if watching is not None:
        function("watching", watching)
    if not isinstance(stop, Stop | None):
        raise UsageError(f"`stop`={shown(stop)} is no Stop; leave it away")
    workers = whole("workers", workers, 1, MOST_AT_ONCE)
    retries = whole("retries", retries, 0)
    truth("accept_changes", accept_changes)
    if threads is not None and threads != "auto":
        threads = whole("threads", threads, 1, MOST_AT_ONCE)
    given: dict[str, Any] = {"min_resource": min_resource, "eta": eta, "brackets": brackets, "validation": validation}
    given |= {"finalists": finalists, "final": final, "fixed": fixed or {}}
    where = device_named(text("device", device))
    asked = ways_of(ways)
    if not isinstance(fixed, Mapping | None):
        raise UsageError(f"`fixed`={shown(fixed)} is no dict of parameters and values; give one")
    found = [
        problem_of(
            one, given, max_resource, final_resource, None if data is None else path("data", data), precision
        ).run_with(workers, threads, where)
        for one in each_of(objectives)
    ]
    if data is not None and not any(isinstance(problem.objective, ProblemObjective) for problem in found):
        name = found[0].told.name
        raise UsageError(f"`data` says how a Problem is trained, and {name} says that itself; leave it away")
    running = {"workers": workers, "threads": threads, "device": where, "retries": retries}
    for name in fixed or {}:
        if all(name not in problem.objective.space for problem in found):
            raise UsageError(f"`fixed` names {name}, which no problem has; leave it out")
    run = _Study(folder, found, asked, seeds_of(seeds), running | {"accept_changes": accept_changes}, say, watching)
    run.check()
    with stopping(stop, seconds) as asks, locked(folder), asks.heeding(lambda: asked_to_stop(folder)):
        summary = run.run(asks)
    if stop is None and asks.interrupted:
        raise KeyboardInterrupt
    return StudyResult(folder, summary, asks.asked() and not summary.complete)


@dataclass
class _Study:
    """What is studied, and where; `run` does it."""

    folder: Path
    problems: Sequence[Problem]
    ways: Sequence[Way]
    seeds: Sequence[int]
    running: Mapping[str, Any]
    say: Callable[[str], None]
    watching: Callable[[], AbstractContextManager[Watcher | None]] | None
    searches: list[StudiedSearch] = field(default_factory=list)
    before: StudySummary | None = None
    # Of each problem, and of a search that noted it or not, what its identity has of whole numbers that are held out.
    _held_out: dict[tuple[str, bool], dict[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise UsageError, before anything is trained, where a search cannot be had, or two would share a folder."""
        places = dict[str, str]()
        for problem in self.problems:
            for way in self.ways:
                with _named(way):
                    settings = self._composed(problem, way)
                    _check_layers(problem, way)
                    if way.resize is not None:
                        self._check_images(problem, way.resize, settings)
                place, name = directory_of(problem.told.name, way, self.seeds[0]), problem.told.name
                # Not all systems tell large letters from small ones.
                if place.lower() in places:
                    raise UsageError(
                        f"two problems are called {name} and {places[place.lower()]}, and would share the folder "
                        f"{place}; rename one of them, or leave it out"
                    )
                places[place.lower()] = name

    def run(self, stop: Stop) -> StudySummary:
        """Run what is not done, and return the study's result; it is written after each search."""
        before = self.before = study_in(self.folder) if written(self.folder) is not None else None
        told = [problem.told for problem in self.problems]
        self.searches = searches_of(self.folder, told, self.ways, self.seeds)
        if before is not None:
            check_joinable(self.folder, before, told, self.searches)
            identities = {problem.told.name: partial(self._identity, problem) for problem in self.problems}
            check_same(self.folder, before, self.searches, identities, self.running["accept_changes"])
            tell_as_before(before, told, self.searches)
        others = [] if before is None else kept(before, self.searches)
        orders = {problem.told.name: list(problem.objective.space) for problem in self.problems}
        check_order(self.folder, [*others, *self.searches], orders)
        self._write()
        try:
            return self._run(stop)
        except UsageError:
            # The searches that are there are none of these settings.
            if before is not None:
                earlier = {problem.name: problem for problem in before.problems}
                summary = self._summary()
                problems = [earlier.get(problem.name, problem) for problem in summary.problems]
                write(self.folder, summary.model_copy(update={"problems": problems}))
            raise

    def _run(self, stop: Stop) -> StudySummary:
        for place, (seed, problem, way) in enumerate(self._cells()):
            if stop.asked():
                break
            fresh = self.searches[place].state != "done"
            if fresh:
                self.say(f"search {place + 1} of {len(self.searches)}: {problem.told.name}, {way.name}, seed {seed}")
            if any(each.name not in problem.told.predicted for each in self.ways):
                self._predict(problem)
                if stop.asked():
                    break
            begun = self.searches[place]
            failure = self._search(problem, way, seed, self.folder / begun.directory, stop)
            self.searches[place] = looked_at(self.folder, begun.model_copy(update={"failure": failure}))
            if failure is not None:
                self.say(f"it failed ({failure}); the same call tries it again")
                self.searches[place] = self.searches[place].model_copy(update={"state": "failed", "failure": failure})
            elif fresh:
                self.say(search_line(problem.told, self.searches[place]))
            self._write()
        return self._summary()

    def _cells(self) -> Iterator[tuple[int, Problem, Way]]:
        for seed in self.seeds:
            for problem in self.problems:
                for way in self.ways:
                    yield seed, problem, way

    def _composed(self, problem: Problem, way: Way) -> SearchSettings:
        applied = problem.applied(way)
        given = _with_fixed(problem, applied)
        _, settings = compose(applied.objective, rates=applied.rates, device=self.running["device"], **given)
        return settings

    def _check_images(self, problem: Problem, resize: Resize, settings: SearchSettings) -> None:
        """Raise UsageError where a problem does not take small images; its data are loaded for that."""
        if isinstance(problem.objective, ProblemObjective):
            problem.objective.fetch(self.say)
            resize.check(
                problem.objective.problem, problem.objective.splits, settings.max_resource, fixed=settings.fixed
            )

    def _identity(self, problem: Problem, there: Mapping[str, Any]) -> dict[str, Any]:
        # What is the problem's in it is the same in each way.
        objective = problem.applied(self.ways[0]).objective
        if isinstance(objective, CommandObjective):
            objective = objective.as_begun(there)
        identity = {**objective.identity, "space": objective.space.as_json(), "device": problem.told.device}
        if isinstance(objective, ProblemObjective):
            # What it is on the device, as a search notes it.
            identity["precision"] = problem.told.precision
            # Of a search that noted nothing the data may have to be asked: once.
            noted = NOTE in there
            if (problem.told.name, noted) not in self._held_out:
                self._held_out[problem.told.name, noted] = objective.held_out(there)
            identity |= self._held_out[problem.told.name, noted]
        return identity

    @kept_process()
    def _predict(self, problem: Problem) -> None:
        """Have the problem's layers timed, once in a study: the times of another moment would be others."""
        found: dict[str, float | None] = {way.name: None for way in self.ways}
        # Layers are timed in float32.
        if isinstance(problem.objective, ProblemObjective) and problem.objective.precision in (None, "fp32"):
            self.say(f"{problem.told.name}: layers are timed")
            threads = self.running["threads"]
            # As its searches train.
            tune_process(threads if isinstance(threads, int) else 1 if self.running["workers"] > 1 else None)
            plain = next((way for way in self.ways if way.stan is None), self.ways[0])
            try:
                problem.objective.fetch(self.say)
                settings = self._composed(problem, plain)
                found |= predicted_speedups(problem.objective, self.ways, settings, problem.fixed)
            except StantuneError:
                # Its data cannot be had: the search itself tells.
                return
            finally:
                # Processes that train have their own.
                vars(problem.objective).pop("splits", None)
        problem.told.predicted.update({**found, **problem.told.predicted})
        self._write()

    def _search(self, problem: Problem, way: Way, seed: int, out: Path, stop: Stop) -> str | None:
        """Run a search, or go on with it; return why it cannot go on, None where nothing is in its way."""
        workers = self.running["workers"]

        def processes(order: Order) -> Executor:
            return Workers(order, workers)

        try:
            splits = None
            if way.remembers and isinstance(problem.objective, ProblemObjective):
                problem.objective.fetch(self.say)
                splits = problem.objective.splits
            applied = problem.applied(way, splits)
            with _environment(way.environment):
                found = tune(
                    applied.objective,
                    rates=applied.rates,
                    seed=seed,
                    out=out,
                    # Also of one training at a time: so all begin alike, and have the environment of their way.
                    executor=processes,
                    say=self.say,
                    watching=self.watching,
                    stop=stop,
                    **_with_fixed(problem, applied),
                    **self.running,
                )
        except UsageError:
            raise
        except StantuneError as error:
            return one_line(str(error))
        return found.state.final_failure

    def _summary(self) -> StudySummary:
        told = [problem.told for problem in self.problems]
        asked = summary_of(told, [way.name for way in self.ways], self.seeds, self.searches)
        return asked if self.before is None else joined(self.before, asked)

    def _write(self) -> None:
        write(self.folder, self._summary())


def _check_layers(problem: Problem, way: Way) -> None:
    """Raise UsageError where a way names layers that the network does not have."""
    objective = problem.applied(way).objective
    if not isinstance(objective, ProblemObjective) or objective.stan is None:
        return
    # A memory would want all samples.
    stan = replace(objective.stan, memo=None, iterations=problem.told.max_iterations)
    with warnings.catch_warnings():
        # Said where the search begins.
        warnings.simplefilter("ignore", NoEffectWarning)
        accelerate_(objective.problem.tried(problem.fixed), stan)


def _with_fixed(problem: Problem, applied: Applied) -> dict[str, Any]:
    """Return the settings of a search, with what the way holds at a value."""
    return {**problem.settings, "fixed": {**problem.fixed, **applied.fixed}}


@contextmanager
def _named(way: Way) -> Iterator[None]:
    """Have what is raised name the way that it is of."""
    try:
        yield
    except UsageError as error:
        if "`ways`" in str(error):
            raise
        raise UsageError(f"`ways`={brief(way.name)}: {error}") from error


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Have processes that are started meanwhile find these in their environment."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
