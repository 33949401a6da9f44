"""`stantune compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from stantune.arguments import MOST_AT_ONCE, path
from stantune.cli import options as o
from stantune.cli.output import console_for, say_loading, write_json
from stantune.cli.preparing import load_splits, warn_of_no_kernels
from stantune.cli.settings import device_of, problem_of, setting_of, stan_of, what_is_named
from stantune.cli.training.fill import Fill, check_fill, filled
from stantune.cli.training.threads import threads_of, use_threads
from stantune.errors import StantuneError, UsageError
from stantune.search.stopping import stoppable

if TYPE_CHECKING:
    from stantune.images.problem.built_in import Problem
    from stantune.stan.config import Stan

Seeds = Annotated[
    int, typer.Option("--seeds", metavar="n", max=MOST_AT_ONCE, help="Seeds 0 … n-1: each trains all once.")
]
Rates = Annotated[
    list[str] | None,
    typer.Option(
        "--rate",
        metavar="RATE|auto|annealed",
        help="Share of the entries that STAN computes (default: 0.5); repeatable.",
    ),
]
EqualTime = Annotated[
    bool, typer.Option("--equal-time", help="Also train exactly for only as long as STAN's training took.")
]
Out = Annotated[
    # A text: an empty one is refused, and as a path it would be the current folder.
    str | None,
    typer.Option("--out", metavar="DIR", help="Keep trainings there; the same command goes on, also after a kill."),
]


def compare(
    problem: o.ProblemName,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    batch_size: o.CaffeBatchSize = None,
    seeds: Seeds = 3,
    iterations: o.Iterations = None,
    rate: Rates = None,
    fill: Fill = "neighbour",
    tolerance: o.Tolerance = None,
    period: o.Period = o.PERIOD,
    pretrain: o.Pretrain = 0,
    tail: o.Tail = 0,
    layers: o.Layers = None,
    equal_time: EqualTime = False,
    set: o.Set = None,
    full_train: o.FullTrain = False,
    out: Out = None,
    data: o.Data = None,
    json: o.Json = None,
    threads: o.AnyThreads = None,
    device: o.Device = "auto",
    precision: o.Precision = None,
    debug: o.Debug = False,
) -> None:
    """Train one setting exactly and under STAN, and print the time that STAN saves and the error that it costs.

    For each seed all trainings start from the same weights, see the same data and take turns of a few iterations. Do
    not run two comparisons at once, or anything else that comes and goes: they spoil each other's times.
    """
    directory = None if out is None else path("out", out)
    say_loading("PyTorch and the problem", json)
    from stantune.compare.comparison import Comparer, threads_of_records
    from stantune.process.runtime import tune_process
    from stantune.report.compare import compare_result, show_comparison
    from stantune.report.live import training_progress
    from stantune.training.precision import check_plan, precision_on
    from stantune.training.threads import measure_threads

    asked = threads_of(threads)
    what = problem_of(what_is_named(problem, solver, dataset, batch_size), layers)
    setting = setting_of(what, set)
    length = (full_train and what.full_iterations) or what.iterations
    if iterations is not None:
        length = iterations
    for option, value in (("--iterations", length), ("--seeds", seeds)):
        if value < 1:
            raise UsageError(f"{option} {value} is too small; give at least 1")
    stans = _stans(what, rate or ["0.5"], fill, (tolerance, period, pretrain, tail, length))
    where = device_of(device)
    # Before data are loaded.
    precision_on(precision, where)
    for stan in stans.values():
        check_plan(precision, stan)
    count = tune_process(None if asked == "auto" else asked)
    console = console_for(json)
    splits = load_splits(what, data, console, full_train)
    warn_of_no_kernels(where, console)
    if asked == "auto":
        # Of exact and of native iterations: neither side is to have the number that suits the other.
        natives = (False, True)
        count = use_threads(
            console,
            threads_of_records(directory)
            or measure_threads(what, setting, splits, natives=natives, device=where, precision=precision),
        )
    stans = {name: filled(stan, fill, what, splits, setting) for name, stan in stans.items()}

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
        console.print(title, soft_wrap=True)
        with training_progress(console, total) as moved:
            yield moved

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    with stoppable() as stop:
        comparer = Comparer(
            what, setting, stans, length, splits, where, directory, stop.asked, progress, say, precision
        )
        comparison = comparer.compare(seeds, equal_time)
    if comparison is None:
        how = (
            "nothing is kept of it without --out"
            if directory is None
            else f"what was trained is in {directory}, and the same command goes on from there"
        )
        raise StantuneError(f"interrupted; {how}")
    result = compare_result(what.name, setting, count, comparison)
    show_comparison(console, result)
    write_json(result, json)


def _stans(
    problem: Problem, rates: list[str], fill: str, others: tuple[float | None, str, int, int, int]
) -> dict[str, Stan]:
    """Return STAN's settings for each --rate by its text; `others` are the options that all of them share."""
    check_fill(fill)
    stans: dict[str, Stan] = {}
    for text in rates:
        stan = stan_of("stan", text, *others, problem)
        assert stan is not None
        name = stan.rate if isinstance(stan.rate, str) else f"{stan.rate:g}"
        if name in stans:
            raise UsageError(f"--rate {text} is given twice; each is compared once")
        stans[name] = stan
    return stans
