"""`stantune train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stantune.cli import options as o
from stantune.cli.output import check_checkpoint, console_for, say_loading, write_json
from stantune.cli.preparing import load_splits, warn_of_no_effect, warn_of_no_kernels
from stantune.cli.settings import check_heeded, device_of, problem_of, setting_of, stan_of, what_is_named
from stantune.cli.training.fill import Fill, check_fill, filled
from stantune.cli.training.threads import threads_of, use_threads
from stantune.cli.wording import worded
from stantune.errors import StantuneError, UsageError
from stantune.search.stopping import stoppable

if TYPE_CHECKING:
    from stantune.outcome import Outcome
    from stantune.training.trainable import Trainable

Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="FILE", help="Keep the training there; the same command goes on.")
]


def train(
    ctx: typer.Context,
    problem: o.ProblemName,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    batch_size: o.CaffeBatchSize = None,
    set: o.Set = None,
    iterations: o.Iterations = None,
    full_train: o.FullTrain = False,
    accelerate: o.Accelerate = "none",
    rate: o.Rate = "0.5",
    fill: Fill = "neighbour",
    tolerance: o.Tolerance = None,
    period: o.Period = o.PERIOD,
    pretrain: o.Pretrain = 0,
    tail: o.Tail = 0,
    layers: o.Layers = None,
    seed: o.Seed = 0,
    checkpoint: Checkpoint = None,
    data: o.Data = None,
    json: o.Json = None,
    threads: o.AnyThreads = None,
    device: o.Device = "auto",
    resize: o.Resize = None,
    precision: o.Precision = None,
    compile: o.Compile = False,
    debug: o.Debug = False,
) -> None:
    """Train one setting of a problem, exactly unless told otherwise, and print its error."""
    say_loading("PyTorch and the problem", json)
    from stantune.images.numbers_held_out import noted_of
    from stantune.images.objective import made_of
    from stantune.images.resizing import Resize, resized
    from stantune.process.crowding import crowding
    from stantune.process.runtime import tune_process
    from stantune.report.live import training_progress
    from stantune.report.results import TrainResult
    from stantune.report.text import show_training
    from stantune.search.results.summary import cost_seconds
    from stantune.seeds import derive
    from stantune.stan.config import Stan
    from stantune.training.compiling import check_compile, check_compiler
    from stantune.training.precision import precision_on
    from stantune.training.threads import measure_threads

    check_heeded(ctx)
    asked = threads_of(threads)
    check_checkpoint(checkpoint)
    what = problem_of(what_is_named(problem, solver, dataset, batch_size), layers)
    setting = setting_of(what, set)
    length = (full_train and what.full_iterations) or what.iterations
    if iterations is not None:
        length = iterations
    if length < 1:
        raise UsageError(f"--iterations {length} is too small; give at least 1")
    what = what.lasting(length)
    check_fill(fill)
    stan: Stan | None = stan_of(accelerate, rate, tolerance, period, pretrain, tail, length, what)
    where = device_of(device)
    # Before data are loaded.
    small = None if resize is None else Resize.of(resize)
    precision_on(precision, where)
    check_compile(compile, stan)
    if compile:
        check_compiler(where)
    count = tune_process(None if asked == "auto" else asked)
    console = console_for(json)
    if where == "cpu" and asked != "auto" and (note := crowding(count)):
        console.print(f"note: {worded(note)}", soft_wrap=True)
    splits = load_splits(what, data, console, full_train)
    warn_of_no_effect(what, stan, console)
    if stan is not None:
        warn_of_no_kernels(where, console)
        stan = filled(stan, fill, what, splits, setting)
    if small is not None:
        small.check(what, splits, length, stan, setting)

    def choose(before: int | None) -> None:
        if asked == "auto":
            natives = (stan is not None,)
            use_threads(
                console,
                before
                or measure_threads(
                    what, setting, splits, natives=natives, device=where, precision=precision, compile=compile
                ),
            )

    with stoppable() as stop, training_progress(console, length) as moved:
        outcome = _trained(
            what if small is None else resized(what, small, length, 0, length),
            setting,
            checkpoint,
            0,
            length,
            splits=splits,
            seed=derive("train", seed),
            stan=stan,
            evaluate=[split for split in ("validation", "test") if len(getattr(splits, split))],
            device=where,
            use_threads=choose,
            stop_early=stop.asked,
            watch=moved,
            made={**made_of(what), **noted_of(splits)},
            precision=precision,
            compile=compile,
            # A plan is for whole images, as in a search.
            timed=what,
        )
    if outcome.interrupted:
        how = (
            "nothing is kept of it without --checkpoint"
            if checkpoint is None
            else "the same command goes on from there"
        )
        raise StantuneError(f"interrupted at iteration {outcome.iterations}; {how}")
    result = TrainResult(
        problem=what.name,
        seed=seed,
        accelerate="none" if stan is None else "stan",
        params=setting,
        iterations=outcome.iterations,
        validation_error=outcome.metrics.get("validation error"),
        test_error=outcome.metrics.get("test error"),
        metrics=dict(outcome.metrics),
        seconds=cost_seconds(outcome.cost),
        diverged_at=outcome.diverged_at,
    )
    show_training(console, result)
    write_json(result, json)


def _trained(problem: Trainable, setting: dict[str, Any], *rest: Any, **options: Any) -> Outcome:
    """Train; a setting that cannot be trained, or compiled, is bad use here, where it is the only one."""
    from stantune.images.solving.optimizers import SettingError
    from stantune.training.compiling import CompileError
    from stantune.training.train import run

    try:
        return run(problem, setting, *rest, **options)
    except (SettingError, CompileError) as error:
        raise UsageError(str(error)) from error
