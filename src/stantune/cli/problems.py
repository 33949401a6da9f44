"""`stantune problems`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stantune.cli import options as o
from stantune.cli.output import console_for, say_loading, write_json
from stantune.cli.settings import what_is_named

if TYPE_CHECKING:
    from stantune.images.problem.built_in import Problem
    from stantune.images.problem.facts import Facts
    from stantune.report.results import ProblemResult

Named = Annotated[
    str | None,
    typer.Argument(
        metavar="[PROBLEM]", help="A built-in problem, your own as FILE.py:NAME, or Caffe's, a network's FILE.prototxt."
    ),
]


def problems(
    problem: Named = None,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    batch_size: o.CaffeBatchSize = None,
    json: o.Json = None,
    debug: o.Debug = False,
) -> None:
    """Show problems with their spaces: all that are built in, or the one that is named."""
    # Not the problems themselves, which need PyTorch: it takes seconds.
    from stantune.images.problem.facts import FACTS
    from stantune.report.results import ProblemsResult
    from stantune.report.text import show_problems

    # Without a problem, too: its options are refused then.
    what = what_is_named(problem or "", solver, dataset, batch_size)
    shown = list(FACTS.values()) if problem is None else [_found(what, json)]
    result = ProblemsResult(problems=[_describe(one) for one in shown])
    show_problems(console_for(json), result)
    write_json(result, json)


def _found(what: str | Problem, json: str | None) -> Facts | Problem:
    from stantune.images.problem.facts import FACTS

    if not isinstance(what, str):
        return what
    if what in FACTS:
        return FACTS[what]
    say_loading("PyTorch and the problem", json)
    from stantune.images.problem.built_in import find

    return find(what)


def _describe(problem: Facts | Problem) -> ProblemResult:
    from stantune.report.results import ParameterResult, ProblemResult

    return ProblemResult(
        name=problem.name,
        data=problem.data if isinstance(problem.data, str) else "its own",
        iterations=problem.iterations,
        batch_size=problem.batch_size,
        space=[ParameterResult(name=name, **described) for name, described in problem.space.as_json().items()],
    )
