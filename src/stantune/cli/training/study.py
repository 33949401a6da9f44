"""`stantune study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stantune.arguments import MOST_AT_ONCE
from stantune.cli import options as o
from stantune.cli.training.threads import threads_of
from stantune.cli.wording import worded
from stantune.errors import StantuneError

# What the command ends with where it has done all it could, and searches are missing nevertheless.
_FAILED = 3

Problems = Annotated[
    list[str], typer.Argument(metavar="PROBLEM…", help="Built-in problems, or your own as FILE.py:NAME.")
]
Ways = Annotated[
    str,
    typer.Option(
        "--ways",
        metavar="WAY,…",
        help="none (stock PyTorch), native, native:no-winograd, stan, stan:RATE, stan:annealed, stan:auto, "
        "stan:RATE,…, memo, meprop:K, meprop:unified:K, stan+meprop; stan and memo with /Z and @LAYERS.",
    ),
]
Seeds = Annotated[
    int, typer.Option("--seeds", metavar="n", min=1, max=MOST_AT_ONCE, help="Seeds 0 … n-1: each runs all once.")
]
MaxIterations = Annotated[
    str | None,
    typer.Option(
        "--max-iterations",
        "--max-resource",
        metavar="R|1/n",
        help="Most iterations of a trial, or a share of each problem's own (default: all).",
    ),
]
FinalIterations = Annotated[
    str | None,
    typer.Option(
        "--final-iterations",
        "--final-resource",
        metavar="N|1/n",
        help="Iterations of a final training (default: R; 1/1: the problem's own).",
    ),
]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="The study's folder.")]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Stop in good order after 30m, 2h, …; go on later.")
]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Go on although a problem's code has changed since a search began.")
]
Retries = Annotated[
    int, typer.Option("--retries", min=0, help="How often a training that failed is tried again, in each rung.")
]


def study(
    problems: Problems,
    ways: Ways = "none,native,stan",
    seeds: Seeds = 3,
    max_iterations: MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    brackets: o.Brackets = "all",
    validation: o.Validation = "all",
    finalists: o.Finalists = 1,
    final: o.Final = "scratch",
    final_iterations: FinalIterations = None,
    out: Out = "runs/study",
    data: o.Data = None,
    json: o.Json = None,
    budget: Budget = None,
    accept_changes: AcceptChanges = False,
    workers: o.Workers = 1,
    retries: Retries = 2,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Search problems in several ways with several seeds, and compare them in pairs; the same command goes on.

    Each search has a folder of its own in DIR, and trains in processes of its own. Run nothing beside it: what comes
    and goes spoils times.
    """
    o.say_loading("PyTorch and the problems", json)
    from stantune.compare.study.study import study as run_study
    from stantune.quantities import duration, parse_duration
    from stantune.report.live import watching
    from stantune.report.study import show_study
    from stantune.search.stopping import stoppable

    seconds = None if budget is None else parse_duration(budget)
    console = o.console_for(json)
    with stoppable(seconds) as stop:
        found = run_study(
            problems,
            ways=ways,
            seeds=seeds,
            max_resource=max_iterations,
            min_resource=min_iterations,
            eta=eta,
            brackets=o.brackets_of(brackets),
            validation=validation,
            finalists=finalists,
            final=final,
            final_resource=final_iterations,
            out=out,
            data=data,
            accept_changes=accept_changes,
            workers=workers,
            threads=threads_of(threads),
            device=device,
            retries=retries,
            say=lambda line: console.print(worded(line), soft_wrap=True),
            watching=lambda: watching(console),
            stop=stop,
        )
    show_study(console, found.summary)
    o.write_json(found.summary, json)
    if not found.complete and found.interrupted:
        why = "interrupted" if stop.interrupted else f"the budget of {duration(seconds)} is spent"
        print(f"stantune: {why}; nothing is lost, the same command goes on from here", file=sys.stderr)
        raise typer.Exit(1 if stop.interrupted else 0)
    page: Path | None = None
    try:
        page = found.report()
    except StantuneError as error:
        # Plotly is not installed, or every search failed before it had begun.
        print(f"stantune: there is no page ({worded(str(error))})", file=sys.stderr)
    if page is not None:
        console.print(f"the report is in {page}", soft_wrap=True)
    if not found.complete:
        raise typer.Exit(_FAILED)
