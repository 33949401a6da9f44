"""`stantune profile`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from stantune.arguments import MOST
from stantune.cli import options as o
from stantune.cli.output import console_for, say_loading, write_json
from stantune.cli.preparing import load_splits
from stantune.cli.settings import device_of, is_caffe, period_of, problem_of, rate_of, what_is_named
from stantune.cli.stan.effect import check_effect
from stantune.cli.training.threads import threads_of, use_threads
from stantune.errors import UsageError

Period = Annotated[
    str | None,
    typer.Option(
        "--period",
        metavar="Z|none",
        help=f"Reduced iterations after each exact one; none: no exact ones (default: {o.PERIOD}, or the planner's).",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", max=MOST, help="Images in an iteration (default: the problem's own number)."),
]
Iterations = Annotated[
    int | None,
    typer.Option("--iterations", max=MOST, help="N of the run to predict (default: the problem's own number)."),
]


def profile(
    problem: o.ProblemName,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    rate: o.Rate = "auto",
    tolerance: o.Tolerance = None,
    layers: o.Layers = None,
    period: Period = None,
    batch_size: BatchSize = None,
    iterations: Iterations = None,
    seed: o.Seed = 0,
    data: o.Data = None,
    json: o.Json = None,
    threads: o.AnyThreads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Time a problem's layers on this machine, and say what STAN would do with them and how fast the run would be."""
    say_loading("PyTorch and the problem", json)
    from stantune.process.runtime import tune_process
    from stantune.report.stan.profile import profile_result, show_profile
    from stantune.stan.config import Stan
    from stantune.training.planning import plan_from, times_of
    from stantune.training.threads import measure_threads

    asked = threads_of(threads)
    what = problem_of(what_is_named(problem, solver, dataset, batch_size if is_caffe(problem) else None), layers)
    for option, value in (("--batch-size", batch_size), ("--iterations", iterations)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value} is too small; give at least 1")
    if rate == "auto" and period is not None:
        raise UsageError(f"--period {period} is fixed, and --rate auto chooses it; leave one of them out")
    if batch_size is not None:
        what = replace(what, batch_size=batch_size)
    length = what.iterations if iterations is None else iterations
    what = what.lasting(length)
    stan = Stan(
        rate=rate_of(rate),
        tolerance=tolerance,
        period=period_of(o.PERIOD if period is None else period),
        iterations=length,
        layers=what.stan_layers,
        seed=seed,
    )
    check_effect(what, {}, stan)
    where = device_of(device)
    count = tune_process(None if asked == "auto" else asked)
    console = console_for(json)
    splits = load_splits(what, data, console)
    measured = None
    if asked == "auto":
        measured = measure_threads(what, {}, splits, device=where)
        count = use_threads(console, measured)
    times = times_of(what, {}, stan.layers, splits, seed=seed, device=where)
    plan = plan_from(times, stan, what, {}, splits, iterations=length, seed=seed, device=where)
    result = profile_result(what, stan.least_rate, length, count, where, seed, plan, measured)
    show_profile(console, result)
    write_json(result, json)
