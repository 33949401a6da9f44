"""`stantune search` and `stantune brackets`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stantune.cli import options as o
from stantune.cli.on_ray import cluster_of, device_on, directory_of
from stantune.search.stopping import stoppable
from stantune.cli.threads import settle_threads, threads_of
from stantune.errors import StantuneError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from stantune.images.problems import Problem, Splits
    from stantune.search.settings import SearchSettings
    from stantune.search.table.directory import SearchDirectory

# What the command ends with where it has done all it could, and trials are missing nevertheless.
_FAILED = 3

Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The search's directory (default: runs/PROBLEM).")
]
Storage = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="Optuna storage for the trials (default: SQLite in DIR).")
]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Stop in good order after 30m, 2h, …; go on later.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete the directory's search and begin anew, after asking.")]
TrialTimeout = Annotated[
    str | None,
    typer.Option("--trial-timeout", metavar="TIME", help="End a training that does no iteration for so long."),
]
TrialMemory = Annotated[
    str | None,
    typer.Option("--trial-memory", metavar="SIZE", help="End a training whose process uses more, such as 2G (Linux)."),
]
Retries = Annotated[
    int, typer.Option("--retries", min=0, help="How often a training that failed is tried again, in each rung.")
]
StartFrom = Annotated[
    Path | None,
    typer.Option("--start-from", metavar="DIR", help="Learn from an earlier search, and try its best settings first."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def search(
    problem: o.ProblemName,
    quick: o.Quick = False,
    max_iterations: o.MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    brackets: o.Brackets = "all",
    variant: o.Variant = "algorithm1",
    mode: o.Mode = "sync",
    trials: o.Trials = None,
    accelerate: o.SearchAccelerate = "stan",
    rate: o.SearchRate = None,
    tolerance: o.Tolerance = None,
    period: o.SearchPeriod = None,
    pretrain: o.Pretrain = 0,
    tail: o.Tail = 0,
    layers: o.SearchLayers = None,
    sampler: o.Sampler = "random",
    lag: o.Lag = 16,
    finalists: o.Finalists = 1,
    start_from: StartFrom = None,
    seed: o.Seed = 0,
    out: Out = None,
    storage: Storage = None,
    data: o.Data = None,
    json: o.Json = None,
    budget: Budget = None,
    fresh: Fresh = False,
    yes: Yes = False,
    workers: o.SearchWorkers = None,
    engine: o.Executor = "local",
    address: o.Address = None,
    checkpoints: o.Checkpoints = None,
    trial_timeout: TrialTimeout = None,
    trial_memory: TrialMemory = None,
    retries: Retries = 2,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Search a problem's settings with Hyperband or ASHA; the same command goes on where it was."""
    from stantune.images.trainer import ProblemTrainer, TrainerOrder
    from stantune.report.live import watching
    from stantune.report.summary import summarise
    from stantune.report.text import show_search
    from stantune.report.words import duration, parse_bytes, parse_duration
    from stantune.runtime import tune_process
    from stantune.search.loop import search as run_search
    from stantune.search.planned import settle
    from stantune.search.table.directory import SearchDirectory
    from stantune.search.table.start_from import settle_start
    from stantune.search.workers.executors import Executor, InProcess
    from stantune.search.workers.workers import Limits, Workers

    asked = threads_of(threads)
    most, workers = workers, workers or (1 if engine == "local" else 2)
    o.check_json(json)
    seconds = None if budget is None else parse_duration(budget)
    limits = Limits(
        None if trial_timeout is None else parse_duration(trial_timeout),
        None if trial_memory is None else parse_bytes(trial_memory),
    )
    what = o.problem_of(problem, layers)
    settings = o.settings_of(
        what,
        quick,
        max_iterations,
        min_iterations,
        eta,
        brackets,
        variant,
        sampler,
        (accelerate, rate, tolerance, period, pretrain, tail, layers),
        seed,
        None if asked == "auto" else asked,
        workers,
        device if engine == "local" else "cpu",
    )
    settings = replace(settings, mode=mode, trials=trials, lag=lag, finalists=finalists)
    settings.check(what)
    console = o.console_for(json)
    if mode == "async" and workers > lag:
        console.print(
            f"note: an asynchronous search with --lag {lag} has work for {lag} workers at most, and here are {workers}",
            soft_wrap=True,
        )
    directory = directory_of(out or Path("runs") / what.name, storage, checkpoints)
    with cluster_of(engine, address, checkpoints) as cluster, stoppable(seconds) as stop, directory.locked():
        if fresh:
            if directory.may_hold_search():
                _confirm(directory.path, yes)
            directory.clear()
        if cluster is not None:
            settings = replace(settings, device=device_on(cluster, device, settings.stan))
        if start_from is not None:
            settings = settle_start(settings, what, directory, SearchDirectory.begun(start_from, storage))
        before = None if isinstance(asked, int) else _threads_of(directory)
        if before is not None:
            settings = replace(settings, threads=tune_process(before))
        o.fetch_data(what, data, console)
        # Workers load the data themselves, and this process only where it has a use for them.
        alone = cluster is None and workers == 1 and limits == Limits()
        side_by_side = cluster is not None or workers > 1
        timed = asked == "auto" and before is None and not side_by_side
        planned = settings.stan is not None and settings.stan.rate == "auto"
        splits = what.load(data) if alone or timed or planned else None
        if asked == "auto":
            settings = _with_settled_threads(console, settings, what, splits, before, side_by_side)
        if splits is not None:
            settings = settle(settings, what, splits, directory)
        o.warn_of_no_effect(what, settings.stan, console)
        order = TrainerOrder(problem, settings, data, directory)
        with ExitStack() as stack:
            executor: Executor
            if alone and splits is not None:
                executor = InProcess(ProblemTrainer(what, settings, splits, directory))
            elif cluster is None:
                del splits
                executor = stack.enter_context(Workers(order, workers, limits))
            else:
                from stantune.search.ray.run import trainings_on

                del splits
                executor = stack.enter_context(trainings_on(cluster, order, directory, limits, most))
            watcher = stack.enter_context(watching(console))
            state = run_search(
                what, settings, directory, executor, watcher=watcher, stop_early=stop.asked, retries=retries
            )
        result = summarise(what, settings, state)
        directory.write_result(f"{result.model_dump_json(indent=2)}\n")
    show_search(console, result, directory.path)
    o.write_json(result, json)
    if state.final_failure is not None:
        print(
            f"stantune: the final training failed ({state.final_failure}); the same command tries it again",
            file=sys.stderr,
        )
    elif not result.complete:
        why = "interrupted" if stop.interrupted else f"the budget of {duration(seconds)} is spent"
        print(f"stantune: {why}; nothing is lost, the same command goes on from here", file=sys.stderr)
        if stop.interrupted:
            raise typer.Exit(1)
    if result.failures:
        last = result.failures[-1]
        several = f"{result.counts.failed} trials have" if result.counts.failed > 1 else "1 trial has"
        print(
            f"stantune: {several} failed for good and the search went on without, trial {last.trial} because of "
            f"{last.cause}; the others are in result.json under failures",
            file=sys.stderr,
        )
    if result.counts.failed or state.final_failure is not None:
        raise typer.Exit(_FAILED)


def brackets(
    problem: o.ProblemName,
    quick: o.Quick = False,
    max_iterations: o.MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    brackets: o.Brackets = "all",
    variant: o.Variant = "algorithm1",
    mode: o.Mode = "sync",
    trials: o.Trials = None,
    accelerate: o.SearchAccelerate = "stan",
    rate: o.SearchRate = None,
    tolerance: o.Tolerance = None,
    period: o.SearchPeriod = None,
    pretrain: o.Pretrain = 0,
    tail: o.Tail = 0,
    layers: o.SearchLayers = None,
    sampler: o.Sampler = "random",
    finalists: o.Finalists = 1,
    seed: o.Seed = 0,
    data: o.Data = None,
    json: o.Json = None,
    workers: o.Workers = 1,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Show what a search with these options would run, without running it."""
    from stantune.images.data import is_present
    from stantune.report.results import PlanResult
    from stantune.report.summary import bracket_results, rate_results
    from stantune.report.text import show_plan
    from stantune.search.estimate import estimate_seconds
    from stantune.search.plan.hyperband import trained_iterations
    from stantune.search.planned import settle

    asked = threads_of(threads)
    o.check_json(json)
    what = o.problem_of(problem, layers)
    settings = o.settings_of(
        what,
        quick,
        max_iterations,
        min_iterations,
        eta,
        brackets,
        variant,
        sampler,
        (accelerate, rate, tolerance, period, pretrain, tail, layers),
        seed,
        None if asked == "auto" else asked,
        workers,
        device,
    )
    settings = replace(settings, mode=mode, trials=trials, finalists=finalists)
    settings.check(what)
    console = o.console_for(json)
    plan = settings.plan()
    estimate = None
    if not isinstance(what.data, str) or is_present(what.data, data):
        splits = what.load(data)
        if asked == "auto":
            settings = _with_settled_threads(console, settings, what, splits, None, workers > 1)
        settings = settle(settings, what, splits)
        o.warn_of_no_effect(what, settings.stan, console)
        estimate = estimate_seconds(what, settings, splits, workers)
    iterations = trained_iterations(plan)
    result = PlanResult(
        problem=what.name,
        mode="async" if mode == "async" else "sync",
        variant=settings.variant,
        eta=settings.eta,
        max_iterations=settings.max_iterations,
        min_iterations=settings.min_iterations,
        rates=rate_results(settings),
        brackets=bracket_results(plan),
        trials=sum(bracket.rungs[0].trials for bracket in plan),
        iterations=iterations.continued,
        iterations_restarting=iterations.restarted,
        final_iterations=settings.finalists * settings.max_iterations,
        estimated_seconds=estimate,
    )
    show_plan(console, result)
    o.write_json(result, json)


def _threads_of(directory: SearchDirectory) -> int | None:
    """Return the threads of the directory's search, with which any number of workers may go on; None without one.

    Raises:
        StoreError: the trial table cannot be used.
    """
    from stantune.search.table.store import Store

    there = Store.identity_of(directory.url, directory.study) if directory.may_hold_search() else None
    return None if there is None else there["threads"]


def _with_settled_threads(
    console: Console,
    settings: SearchSettings,
    problem: Problem,
    splits: Splits | None,
    before: int | None,
    side_by_side: bool,
) -> SearchSettings:
    """Return the settings with what `--threads auto` comes to: what the search was begun with, else the fastest.

    Several workers have one thread each: two trainings side by side do more than one with two.
    """
    from stantune.training.threads import measure_threads

    if before is not None:
        threads = settle_threads(console, before)
    elif side_by_side:
        threads = settle_threads(console, 1, "trainings side by side do most with one each")
    else:
        assert splits is not None
        natives = (settings.stan is not None,)
        measured = measure_threads(problem, {}, splits, natives=natives, device=settings.device)
        threads = settle_threads(console, measured)
    return replace(settings, threads=threads)


def _confirm(path: Path, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"--fresh would delete the search in {path}; add --yes to say so where nobody can be asked")
    if not typer.confirm(f"Delete the search in {path} and begin anew?", err=True):
        raise StantuneError(f"the search in {path} is left as it is; without --fresh the command goes on with it")
