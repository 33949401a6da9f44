"""`stantune search` and `stantune brackets`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from stantune.arguments import whole
from stantune.cli import options as o
from stantune.cli.configuration import Config, ShowConfig, all_options, kept_options
from stantune.cli.output import console_for, say_loading, write_json, write_text
from stantune.cli.settings import accelerated_by_rung, brackets_of, device_of, setting_of, stan_of, what_is_named
from stantune.cli.training.threads import threads_of
from stantune.cli.wording import worded
from stantune.errors import StantuneError, UsageError
from stantune.texts import brief

if TYPE_CHECKING:
    from rich.console import Console

    from stantune.images.problem.built_in import Problem
    from stantune.protocols import Objective
    from stantune.search.plan.plans import PlanName
    from stantune.search.plan.values import Training
    from stantune.search.result import SearchResult
    from stantune.search.table.directory import SearchDirectory
    from stantune.search.telling.progress import Progress
    from stantune.search.telling.watching import Watcher
    from stantune.stan.config import Stan

# What the command ends with where it has done all it could, and trials are missing nevertheless.
_FAILED = 3

Out = Annotated[
    # A text: an empty one is refused, and as a path it would be the current folder.
    str | None,
    typer.Option("--out", metavar="DIR", help="The search's directory (default: runs/PROBLEM)."),
]
Storage = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="Optuna storage for the trials (default: SQLite in DIR).")
]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Stop in good order after 30m, 2h, …; go on later.")
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh/--no-fresh", help="Delete the directory's search and begin anew, after asking.", show_default=False
    ),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes/--no-accept-changes",
        help="Go on although the problem's code has changed since the search began.",
        show_default=False,
    ),
]
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
Yes = Annotated[bool, typer.Option("--yes/--no-yes", help="Do not ask.", show_default=False)]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="NAME[=PLACE]",
        help="Log losses and metrics: csv, tensorboard, mlflow or wandb, and where to; repeatable.",
    ),
]


Enqueue = Annotated[
    list[str] | None,
    typer.Option("--enqueue", metavar="NAME=VALUE,…", help="A known setting that is tried first; repeatable."),
]
Fixed = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Hold a parameter at a value in all settings; repeatable."),
]


def search(
    ctx: typer.Context,
    problem: o.ProblemName,
    config: Config = None,
    show_config: ShowConfig = False,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    batch_size: o.CaffeBatchSize = None,
    quick: o.Quick = False,
    max_iterations: o.MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    plan: o.Plan = "hyperband",
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
    validation: o.Validation = "all",
    finalists: o.Finalists = 1,
    final: o.Final = "scratch",
    final_iterations: o.FinalIterations = None,
    start_from: StartFrom = None,
    enqueue: Enqueue = None,
    set: Fixed = None,
    seed: o.Seed = 0,
    out: Out = None,
    storage: Storage = None,
    data: o.Data = None,
    json: o.Json = None,
    budget: Budget = None,
    fresh: Fresh = False,
    accept_changes: AcceptChanges = False,
    yes: Yes = False,
    workers: o.SearchWorkers = None,
    together: o.Together = 1,
    engine: o.Executor = "local",
    address: o.Address = None,
    checkpoints: o.Checkpoints = None,
    trial_timeout: TrialTimeout = None,
    trial_memory: TrialMemory = None,
    retries: Retries = 2,
    log: Log = None,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    precision: o.Precision = None,
    debug: o.SearchDebug = False,
) -> None:
    """Search a problem's settings with Hyperband or ASHA; the same command goes on where it was."""
    if show_config:
        if json == "-":
            # Standard output is free, since nothing is run; all other prints go to standard error by now.
            write_text(all_options(ctx), json)
        else:
            print(all_options(ctx))
        return
    say_loading("PyTorch and the problem", json)
    from stantune.quantities import parse_duration
    from stantune.report.text import show_search
    from stantune.search.stopping import stoppable
    from stantune.search.table.directory import SearchDirectory
    from stantune.search.telling.notes import without_winner
    from stantune.tuning.tune import path_of, tune

    asked = threads_of(threads)
    seconds = None if budget is None else parse_duration(budget)
    objective, sizes = _composed(
        what_is_named(problem, solver, dataset, batch_size),
        quick,
        max_iterations,
        min_iterations,
        eta,
        (accelerate, rate, tolerance, period, pretrain, tail, layers),
        data,
    )
    console = console_for(json)
    directory = path_of(out, objective)
    if fresh:
        _confirm(directory, storage, yes)
    with stoppable(seconds) as stop:
        found = tune(
            objective,
            **sizes,
            plan=plan,
            brackets=brackets_of(brackets),
            variant=variant,
            mode=mode,
            trials=trials,
            sampler=sampler,
            lag=lag,
            validation=validation,
            finalists=finalists,
            final=final,
            final_resource=final_iterations,
            start_from=start_from,
            enqueue=[_setting(objective, text) for text in enqueue or []],
            fixed=setting_of(objective, set),
            seed=seed,
            out=directory,
            storage=storage,
            fresh=fresh,
            accept_changes=accept_changes,
            workers=workers,
            together=together,
            executor=engine,
            address=address,
            checkpoints=checkpoints,
            trial_timeout=trial_timeout,
            trial_memory=trial_memory,
            retries=retries,
            loggers=log or [],
            threads=asked,
            device=device,
            precision=precision,
            say=lambda line: console.print(worded(line), soft_wrap=True),
            watching=lambda: _watching(console, SearchDirectory(directory, storage), kept_options(ctx)),
            stop=stop,
        )
    # Nothing is in the way of what was found, not even a result.json that cannot be written.
    show_search(console, found.summary, directory)
    lost = without_winner(found.state, objective.unit)
    for note in found.summary.notes:
        if note != lost:
            console.print(f"note: {worded(note)}", soft_wrap=True)
    code = _say_what_is_missing(found, stop.interrupted, seconds, lost)
    write_json(found.summary, json)
    if code:
        raise typer.Exit(code)


@contextmanager
def _watching(console: Console, directory: SearchDirectory, asked: str) -> Iterator[Watcher]:
    """Give what shows the search, and keeps in its directory, as it first trains, what was asked for."""
    from stantune.report.live import watching
    from stantune.search.telling.watching import Silent, Together

    class Keeper(Silent):
        kept = False

        def job(self, job: Training, progress: Progress) -> None:
            if not self.kept:
                directory.write_options(f"{asked}\n")
                self.kept = True

    with watching(console) as view:
        yield Together([Keeper(), view])


def _say_what_is_missing(found: SearchResult, interrupted: bool, seconds: float | None, lost: str | None) -> int:
    """Say on standard error what the search could not do; return the exit code that tells it."""
    from stantune.quantities import duration

    result, failure = found.summary, found.state.final_failure
    if failure is not None:
        failure = worded(failure.removesuffix(", then give the same command again"))
        print(f"stantune: the final training failed ({failure}); the same command tries it again", file=sys.stderr)
    elif not result.complete:
        why = "interrupted" if interrupted else f"the budget of {duration(seconds)} is spent"
        print(f"stantune: {why}; nothing is lost, the same command goes on from here", file=sys.stderr)
        if interrupted:
            return 1
    if result.failures:
        last = result.failures[-1]
        several = f"{result.counts.failed} trials have" if result.counts.failed > 1 else "1 trial has"
        print(
            f"stantune: {several} failed for good and the search went on without, trial {last.trial} because of "
            f"{last.cause}; the others are in result.json under failures",
            file=sys.stderr,
        )
    if lost is not None:
        print(f"stantune: {worded(lost)}", file=sys.stderr)
    if found.unwritten is not None:
        print(f"stantune: {worded(found.unwritten)}", file=sys.stderr)
    missing = (failure, lost, found.unwritten)
    return _FAILED if result.counts.failed or any(each is not None for each in missing) else 0


def brackets(
    problem: o.ProblemName,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    batch_size: o.CaffeBatchSize = None,
    quick: o.Quick = False,
    max_iterations: o.MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    plan: o.Plan = "hyperband",
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
    validation: o.Validation = "all",
    finalists: o.Finalists = 1,
    final: o.Final = "scratch",
    final_iterations: o.FinalIterations = None,
    seed: o.Seed = 0,
    data: o.Data = None,
    json: o.Json = None,
    workers: o.Workers = 1,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Show what a search with these options would run, without running it."""
    say_loading("PyTorch and the problem", json)
    from stantune.images.data import is_present
    from stantune.images.estimate import estimate_seconds
    from stantune.images.objective import ProblemObjective
    from stantune.protocols import Conditions
    from stantune.report.results import PlanResult
    from stantune.report.text import show_plan
    from stantune.search.plan.finals import CONTINUE
    from stantune.search.plan.hyperband import trained_iterations
    from stantune.search.plan.measured import costliest
    from stantune.search.summary import bracket_results, rate_results
    from stantune.search.telling.notes import one_setting
    from stantune.tuning.tune import compose

    asked = threads_of(threads)
    named, sizes = _composed(
        what_is_named(problem, solver, dataset, batch_size),
        quick,
        max_iterations,
        min_iterations,
        eta,
        (accelerate, rate, tolerance, period, pretrain, tail, layers),
        data,
    )
    what, settings = compose(
        named,
        **sizes,
        plan=plan,
        brackets=brackets_of(brackets),
        variant=variant,
        mode=mode,
        trials=trials,
        sampler=sampler,
        validation=validation,
        finalists=finalists,
        final=final,
        final_resource=final_iterations,
        seed=seed,
        device=device_of(device),
    )
    console = console_for(json)
    run = settings.plan()
    estimate = None
    if isinstance(what, ProblemObjective) and (
        not isinstance(what.problem.data, str) or is_present(what.problem.data, what.data)
    ):
        prepared, of_each = what.prepared(
            Conditions(
                settings.max_resource,
                seed,
                asked,
                settings.device,
                side_by_side=workers > 1,
                say=lambda line: console.print(worded(line), soft_wrap=True),
            )
        )
        assert isinstance(prepared, ProblemObjective), "a problem stays one"
        what, settings = prepared, replace(settings, threads=of_each)
        estimate = estimate_seconds(prepared, settings, workers)
    iterations = trained_iterations(costliest(run))
    result = PlanResult(
        problem=what.name,
        unit=what.unit,
        plan=cast("PlanName", settings.plan_name),
        mode="async" if mode == "async" else "sync",
        variant=settings.variant,
        eta=settings.eta,
        max_iterations=settings.max_resource,
        min_iterations=settings.min_resource,
        rates=rate_results(what, settings),
        brackets=bracket_results(run),
        trials=sum(bracket.rungs[0].trials for bracket in run),
        iterations=iterations.continued,
        iterations_restarting=iterations.restarted,
        final_iterations=0 if settings.final == CONTINUE else settings.finals * settings.final_length,
        estimated_seconds=estimate,
    )
    show_plan(console, result)
    if (note := one_setting(settings, run)) is not None:
        console.print(f"note: {worded(note)}", soft_wrap=True)
    write_json(result, json)


def _composed(
    what: str | Problem,
    quick: bool,
    max_iterations: int | None,
    min_iterations: int | None,
    eta: int,
    acceleration: tuple[str, str | None, float | None, str | None, int, int, list[str] | None],
    data: Path | None,
) -> tuple[Objective, dict[str, Any]]:
    """Return the objective that the options name, and its sizes as `tune` takes them; raises UsageError."""
    from stantune.objectives.choose import find_objective

    objective = find_objective(what, data=data)
    if max_iterations is None and quick and objective.length is not None:
        max_iterations = min(o.QUICK_ITERATIONS, objective.length)
    accelerate, rate = acceleration[:2]
    rates = accelerated_by_rung(accelerate)
    if rates and rate is not None:
        raise UsageError(
            f"--rate {rate} and --accelerate {accelerate} both say what STAN computes; leave one of them out"
        )
    if max_iterations is not None:
        max_iterations = whole("max_resource", max_iterations)
    length = max_iterations if max_iterations is not None else objective.length
    stan = _stan(objective, bool(rates), length, *acceleration)
    sizes = {"max_resource": max_iterations, "min_resource": min_iterations, "eta": eta, "rates": rates, "stan": stan}
    return objective, sizes


def _stan(
    objective: Objective,
    by_rung: bool,
    length: int | None,
    accelerate: str,
    rate: str | None,
    tolerance: float | None,
    period: str | None,
    pretrain: int,
    tail: int,
    layers: list[str] | None,
) -> Stan | None:
    """Return STAN's settings as the options say them; None for exact training, or as the objective has it."""
    from stantune.images.objective import ProblemObjective
    from stantune.tuning.tune import BY_RUNG

    if not isinstance(objective, ProblemObjective):
        given = {
            "--accelerate": None if by_rung or accelerate == "stan" else accelerate,
            "--rate": rate,
            "--tolerance": tolerance,
            "--period": period,
            "--pretrain": pretrain or None,
            "--tail": tail or None,
            "--layers": layers,
        }
        for option, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{option} says how a Problem is trained, and {objective.name} says that itself; leave it away"
                )
        return None
    names = layers if layers is not None else list(BY_RUNG["layers"]) if by_rung else objective.problem.stan_layers
    reduced = str(BY_RUNG["period"]) if by_rung and period is None else o.PERIOD if period is None else period
    return stan_of(
        "stan" if by_rung else accelerate,
        o.SEARCH_RATE if rate is None else rate,
        tolerance,
        reduced,
        pretrain,
        tail,
        objective.problem.iterations if length is None else length,
        replace(objective.problem, stan_layers=tuple(names)),
    )


def _setting(objective: Objective, text: str) -> dict[str, Any]:
    """Return the setting that --enqueue gives; raises UsageError."""
    setting = {}
    for assignment in text.split(","):
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"--enqueue {brief(text)} holds {brief(assignment)!r}, which is no assignment; write NAME=VALUE,…"
            )
        if name.strip() in setting:
            raise UsageError(f"--enqueue {brief(text)} gives {brief(name.strip())} twice; give each parameter once")
        setting[name.strip()] = objective.space.parse(name.strip(), value.strip())
    return setting


def _confirm(path: Path, storage: str | None, yes: bool) -> None:
    """Ask whether a search is to be deleted, unless there is none, or --yes says so; raises where it is not."""
    from stantune.search.table.directory import SearchDirectory

    if yes or not SearchDirectory(path, storage).may_hold_search():
        return
    if not sys.stdin.isatty():
        raise UsageError(f"--fresh would delete the search in {path}; add --yes to say so where nobody can be asked")
    if not typer.confirm(f"Delete the search in {path} and begin anew?", err=True):
        raise StantuneError(f"the search in {path} is left as it is; without --fresh the command goes on with it")
