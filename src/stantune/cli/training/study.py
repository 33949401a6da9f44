"""`stantune study`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stantune.arguments import MOST_AT_ONCE
from stantune.cli import options as o
from stantune.cli.output import console_for, say_loading, write_json
from stantune.cli.settings import brackets_of, is_caffe, setting_of, what_is_named
from stantune.cli.training.threads import threads_of
from stantune.cli.wording import worded
from stantune.errors import StantuneError, UsageError

if TYPE_CHECKING:
    from stantune.images.problem.built_in import Problem

# What the command ends with where it has done all it could, and searches are missing nevertheless.
_FAILED = 3

Problems = Annotated[
    list[str],
    typer.Argument(
        metavar="PROBLEM…",
        help="Built-in problems, your own as FILE.py:NAME, or Caffe's, networks' FILE.prototxt.",
    ),
]
Solvers = Annotated[
    list[Path] | None,
    typer.Option("--solver", metavar="FILE", help="Caffe's solver for FILE.prototxt; repeatable, in their order."),
]
Datasets = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset", metavar="NAME", help="The built-in data set for FILE.prototxt; repeatable, or once for all."
    ),
]
BatchSizes = Annotated[
    list[int] | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Images in an iteration of FILE.prototxt (default: as its data layer says); repeatable, or once for all.",
    ),
]
Ways = Annotated[
    str,
    typer.Option(
        "--ways",
        metavar="WAY,…",
        help="none (stock PyTorch), compiled (torch.compile), native, native:no-winograd, stan, stan:RATE, "
        "stan:annealed, stan:auto, stan:RATE,…, memo, meprop:K, meprop:unified:K, resize:SHARE, stan+meprop, "
        "stan+resize; stan and memo with /Z and @LAYERS.",
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
Fixed = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Hold a parameter at a value in all searches; repeatable."),
]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="The study's folder.")]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Go on although a problem's code has changed since a search began.")
]


def study(
    problems: Problems,
    solver: Solvers = None,
    dataset: Datasets = None,
    batch_size: BatchSizes = None,
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
    set: Fixed = None,
    out: Out = "runs/study",
    data: o.Data = None,
    json: o.Json = None,
    budget: o.Budget = None,
    accept_changes: AcceptChanges = False,
    workers: o.Workers = 1,
    retries: o.Retries = 2,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    precision: o.Precision = None,
    debug: o.Debug = False,
) -> None:
    """Search problems in several ways with several seeds, and compare them in pairs; the same command goes on.

    Each search has a folder of its own in DIR, and trains in processes of its own. Run nothing beside it: what comes
    and goes spoils times.
    """
    say_loading("PyTorch and the problems", json)
    from stantune.compare.study.study import study as run_study
    from stantune.quantities import duration, parse_duration
    from stantune.report.live import watching
    from stantune.report.study import show_study
    from stantune.search.stopping import stoppable

    seconds = None if budget is None else parse_duration(budget)
    console = console_for(json)
    what = _named(problems, solver or [], dataset or [], batch_size or [])
    with stoppable(seconds) as stop:
        found = run_study(
            what,
            ways=ways,
            seeds=seeds,
            max_resource=max_iterations,
            min_resource=min_iterations,
            eta=eta,
            brackets=brackets_of(brackets),
            validation=validation,
            finalists=finalists,
            final=final,
            final_resource=final_iterations,
            fixed=_fixed(what, set or [], data),
            out=out,
            data=data,
            accept_changes=accept_changes,
            workers=workers,
            threads=threads_of(threads),
            device=device,
            precision=precision,
            retries=retries,
            say=lambda line: console.print(worded(line), soft_wrap=True),
            watching=lambda: watching(console),
            stop=stop,
        )
    show_study(console, found.summary)
    write_json(found.summary, json)
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


def _named(
    names: Sequence[str], solvers: Sequence[Path], datasets: Sequence[str], sizes: Sequence[int]
) -> list[str | Problem]:
    """Return the problems by their names, but those of Caffe's files already made.

    Raises UsageError where an option for Caffe's files is missing, or nobody can tell of which it is.
    """
    # Where none is Caffe's, the first problem refuses the options.
    caffe = [place for place, name in enumerate(names) if is_caffe(name)] or [0]
    options = zip(
        caffe,
        _each("--solver", solvers, len(caffe)),
        _each("--dataset", datasets, len(caffe)),
        _each("--batch-size", sizes, len(caffe)),
        strict=True,
    )
    given = {place: others for place, *others in options}
    return [what_is_named(name, *given.get(place, (None, None, None))) for place, name in enumerate(names)]


def _each(option: str, values: Sequence[Any], count: int) -> list[Any]:
    """Return an option's value for each of Caffe's networks: none, one for all, or each its own."""
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise UsageError(
            f"{option} is given {len(values)} times, and there are {count} of Caffe's networks; give it once for all, "
            "or for each one, in their order"
        )
    return [*values] * (count // len(values))


def _fixed(problems: Sequence[str | Problem], assignments: Sequence[str], data: Path | None) -> dict[str, Any]:
    """Return the parameters that --set gives, read by the problems that have them; raises UsageError."""
    from stantune.objectives.choose import find_objective

    found = dict[str, Any]()
    objectives = [find_objective(problem, data=data) for problem in problems] if assignments else []
    known = {name for objective in objectives for name in objective.space}
    for place, objective in enumerate(objectives):
        # What no problem has is for the first to refuse, with the names of what it has.
        own = [
            given
            for given in assignments
            if (name := given.partition("=")[0]) in objective.space or (place == 0 and name not in known)
        ]
        for name, value in setting_of(objective, own).items():
            if repr(found.setdefault(name, value)) != repr(value):
                raise UsageError(
                    f"--set {name} is {found[name]!r} to one problem and {value!r} to {objective.name}, since their "
                    "parameters of that name differ; study them apart"
                )
    return found
