"""`stantune search` and `stantune brackets`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.cli.stopping import stoppable
from stantune.errors import StantuneError, UsageError

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
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def search(
    problem: o.ProblemName,
    quick: o.Quick = False,
    max_iterations: o.MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    brackets: o.Brackets = "all",
    variant: o.Variant = "algorithm1",
    accelerate: o.Accelerate = "stan",
    rate: o.Rate = "0.5",
    tolerance: o.Tolerance = None,
    period: o.Period = "9",
    pretrain: o.Pretrain = 0,
    tail: o.Tail = 0,
    sampler: o.Sampler = "random",
    seed: o.Seed = 0,
    out: Out = None,
    storage: Storage = None,
    data: o.Data = None,
    json: o.Json = None,
    budget: Budget = None,
    fresh: Fresh = False,
    yes: Yes = False,
    threads: o.Threads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Search a problem's settings with Hyperband; the same command goes on where it was."""
    from stantune.problems import find
    from stantune.report.live import watching
    from stantune.report.summary import summarise
    from stantune.report.text import show_search
    from stantune.report.words import duration, parse_duration
    from stantune.search.directory import SearchDirectory
    from stantune.search.executors import InProcess
    from stantune.search.loop import search as run_search
    from stantune.search.planned import settle

    o.check_json(json)
    seconds = None if budget is None else parse_duration(budget)
    what = find(problem)
    settings = o.settings_of(
        what,
        quick,
        max_iterations,
        min_iterations,
        eta,
        brackets,
        variant,
        sampler,
        (accelerate, rate, tolerance, period, pretrain, tail),
        seed,
        threads,
        device,
    )
    console = o.console_for(json)
    directory = SearchDirectory(out or Path("runs") / what.name, storage)
    with stoppable(seconds) as stop, directory.locked():
        if fresh:
            if directory.may_hold_search():
                _confirm(directory.path, yes)
            directory.clear()
        splits = o.load_splits(what, data, console)
        settings = settle(settings, what, splits, directory)
        o.warn_of_no_effect(what, settings.stan, console)
        executor = InProcess(what, settings, splits, directory)
        with watching(console) as watcher:
            state = run_search(what, settings, directory, executor, watcher=watcher, stop_early=stop.asked)
        result = summarise(what, settings, state)
        directory.write_result(f"{result.model_dump_json(indent=2)}\n")
    show_search(console, result, directory.path)
    o.write_json(result, json)
    if not result.complete:
        why = "interrupted" if stop.interrupted else f"the budget of {duration(seconds)} is spent"
        print(f"stantune: {why}; nothing is lost, the same command goes on from here", file=sys.stderr)
        if stop.interrupted:
            raise typer.Exit(1)


def brackets(
    problem: o.ProblemName,
    quick: o.Quick = False,
    max_iterations: o.MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    brackets: o.Brackets = "all",
    variant: o.Variant = "algorithm1",
    accelerate: o.Accelerate = "stan",
    rate: o.Rate = "0.5",
    tolerance: o.Tolerance = None,
    period: o.Period = "9",
    pretrain: o.Pretrain = 0,
    tail: o.Tail = 0,
    sampler: o.Sampler = "random",
    seed: o.Seed = 0,
    data: o.Data = None,
    json: o.Json = None,
    threads: o.Threads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Show what a search with these options would run, without running it."""
    from stantune.data import is_present
    from stantune.problems import find
    from stantune.report.results import PlanResult
    from stantune.report.summary import bracket_results
    from stantune.report.text import show_plan
    from stantune.search.estimate import estimate_seconds
    from stantune.search.hyperband import trained_iterations
    from stantune.search.planned import settle

    o.check_json(json)
    what = find(problem)
    settings = o.settings_of(
        what,
        quick,
        max_iterations,
        min_iterations,
        eta,
        brackets,
        variant,
        sampler,
        (accelerate, rate, tolerance, period, pretrain, tail),
        seed,
        threads,
        device,
    )
    console = o.console_for(json)
    plan = settings.plan()
    estimate = None
    if not isinstance(what.data, str) or is_present(what.data, data):
        splits = what.load(data)
        settings = settle(settings, what, splits)
        o.warn_of_no_effect(what, settings.stan, console)
        estimate = estimate_seconds(what, settings, splits)
    iterations = trained_iterations(plan)
    result = PlanResult(
        problem=what.name,
        variant=settings.variant,
        eta=settings.eta,
        max_iterations=settings.max_iterations,
        min_iterations=settings.min_iterations,
        brackets=bracket_results(plan),
        trials=sum(bracket.rungs[0].trials for bracket in plan),
        iterations=iterations.continued,
        iterations_restarting=iterations.restarted,
        final_iterations=settings.max_iterations,
        estimated_seconds=estimate,
    )
    show_plan(console, result)
    o.write_json(result, json)


def _confirm(path: Path, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"--fresh would delete the search in {path}; add --yes to say so where nobody can be asked")
    if not typer.confirm(f"Delete the search in {path} and begin anew?", err=True):
        raise StantuneError(f"the search in {path} is left as it is; without --fresh the command goes on with it")
