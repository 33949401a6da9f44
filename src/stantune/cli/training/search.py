"""`stantune search`: the call of `tune` that the options say, and what it leaves to be said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stantune.cli import options as o
from stantune.cli.configuration import Config, ShowConfig, all_options, kept_options
from stantune.cli.output import console_for, say_loading, write_json, write_text
from stantune.cli.settings import brackets_of, check_heeded, setting_of, what_is_named
from stantune.cli.training.composition import composed, enqueued
from stantune.cli.training.threads import threads_of
from stantune.cli.wording import worded
from stantune.errors import StantuneError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from stantune.search.directory.directory import SearchDirectory
    from stantune.search.plan.values import Training
    from stantune.search.results.result import SearchResult
    from stantune.search.telling.progress import Progress
    from stantune.search.telling.watching import Watcher

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
    typer.Option("--trial-memory", metavar="SIZE", help="End a training whose processes use more, such as 2G (Linux)."),
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
    accelerate: o.SearchAccelerate = None,
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
    set: o.Fixed = None,
    seed: o.Seed = 0,
    out: Out = None,
    storage: Storage = None,
    data: o.Data = None,
    json: o.Json = None,
    budget: o.Budget = None,
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
    retries: o.Retries = 2,
    log: Log = None,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    resize: o.Resize = None,
    precision: o.Precision = None,
    compile: o.SearchCompile = False,
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
    from stantune.search.directory.directory import SearchDirectory
    from stantune.search.stopping import stoppable
    from stantune.search.telling.notes import without_winner
    from stantune.tuning.tune import path_of, tune

    check_heeded(ctx)
    asked = threads_of(threads)
    seconds = None if budget is None else parse_duration(budget)
    objective, sizes = composed(
        what_is_named(problem, solver, dataset, batch_size),
        quick,
        max_iterations,
        min_iterations,
        eta,
        (accelerate, rate, tolerance, period, pretrain, tail, layers),
        data,
        compile,
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
            enqueue=[enqueued(objective, text) for text in enqueue or []],
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
            resize=resize,
            precision=precision,
            compile=compile,
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


def _confirm(path: Path, storage: str | None, yes: bool) -> None:
    """Ask whether a search is to be deleted, unless there is none, or --yes says so; raises where it is not."""
    from stantune.search.directory.directory import SearchDirectory

    if yes or not SearchDirectory(path, storage).may_hold_search():
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"--fresh would delete the search in {path}; add --yes to say so where nobody can be asked")
    if not typer.confirm(f"Delete the search in {path} and begin anew?", err=True):
        raise StantuneError(f"the search in {path} is left as it is; without --fresh the command goes on with it")
