"""`stantune entries`."""

from __future__ import annotations

import json as jsons
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stantune.cli import options as o
from stantune.cli.output import check_file, console_for, say_loading, write_json
from stantune.cli.preparing import load_splits
from stantune.cli.settings import device_of, problem_of, rate_of, what_is_named
from stantune.cli.stan.effect import check_effect, effective
from stantune.errors import CheckpointError, StantuneError, UsageError
from stantune.search.stopping import stoppable

if TYPE_CHECKING:
    from rich.console import Console

    from stantune.images.problem.built_in import Problem
    from stantune.training.trial import Trial

ITERATIONS = 200
MOST_IMAGES = 32

Images = Annotated[int, typer.Option("--images", help=f"How many training images to draw, 1 to {MOST_IMAGES}.")]
Pattern = Annotated[str, typer.Option("--pattern", metavar="NAME", help="auto, rows, columns or blocks.")]
Iterations = Annotated[
    int | None, typer.Option("--iterations", help=f"Train so many under STAN before looking (default: {ITERATIONS}).")
]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="FILE", help="Look at this training instead; train nothing.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE.png", help="The picture (default: PROBLEM-entries.png).")
]


def entries(
    problem: o.ProblemName,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    batch_size: o.CaffeBatchSize = None,
    images: Images = 4,
    rate: o.Rate = "0.5",
    pattern: Pattern = "auto",
    tolerance: o.Tolerance = None,
    layers: o.Layers = None,
    iterations: Iterations = None,
    checkpoint: Checkpoint = None,
    out: Out = None,
    seed: o.Seed = 0,
    data: o.Data = None,
    json: o.Json = None,
    threads: o.Threads = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Draw which entries of each layer a reduced iteration computes, and how far the filled ones are from exact."""
    say_loading("PyTorch and the problem", json)
    from stantune.files import write_whole
    from stantune.process.runtime import tune_process
    from stantune.report.stan.entries import entries_report
    from stantune.report.stan.entries_picture import draw_entries, png, require_matplotlib
    from stantune.report.stan.entries_result import (
        EntriesResult,
        entries_title,
        layer_results,
        left_alone,
        show_entries,
    )
    from stantune.report.stan.looking import images_to_show, looked_at, to_reduced
    from stantune.seeds import derive
    from stantune.stan.config import Stan
    from stantune.training.planning import planned_stan
    from stantune.training.trial import Trial

    what = problem_of(what_is_named(problem, solver, dataset, batch_size), layers)
    picture = _check_picture(out or Path(f"{what.name}-entries.png"))
    if not 1 <= images <= MOST_IMAGES:
        raise UsageError(f"--images {images} cannot be drawn; give 1 to {MOST_IMAGES}")
    if iterations is not None and (iterations < 0 or checkpoint is not None):
        raise UsageError(
            f"--iterations {iterations} is less than none; give 0 or more"
            if iterations < 0
            else f"--iterations {iterations} and --checkpoint {checkpoint} exclude each other; give one of them"
        )
    require_matplotlib()
    stan = Stan(
        rate=rate_of(rate),
        pattern=pattern,
        tolerance=tolerance,
        iterations=what.iterations,
        layers=what.stan_layers,
        seed=seed,
    )
    setting, state = ({}, None) if checkpoint is None else _read(checkpoint, what)
    check_effect(what, setting, stan)
    where = device_of(device)
    tune_process(threads)
    console = console_for(json)
    splits = load_splits(what, data, console)
    if images > len(splits.train):
        raise UsageError(f"--images {images} is more than the {len(splits.train)} training images; give less")
    planned = planned_stan(stan, what, setting, splits, None, seed=seed, device=where)

    def made(stan: Stan) -> Trial:
        with effective(what):
            return Trial(what, setting, splits, seed=derive("train", seed), stan=stan, device=where)

    if state is None:
        trained_here = made(planned)
        _train(trained_here, ITERATIONS if iterations is None else iterations, console)
        state = trained_here.state()
    # Under a rate that changes it may be 1 by now.
    trial = made(looked_at(planned))
    _restore(trial, what, state, checkpoint)
    trained = trial.iteration
    handle = to_reduced(trial)
    chosen = images_to_show(splits, images, seed)
    pixels = splits.train.images[chosen]
    report = entries_report(trial.model, splits.normaliser(pixels).to(where))
    content = png(draw_entries(report, pixels, entries_title(what.name, handle.iteration, trained)))
    try:
        write_whole(picture, content)
    except OSError as error:
        raise StantuneError(f"--out {picture} cannot be written ({error.strerror}); name another file") from error
    result = EntriesResult(
        problem=what.name,
        seed=seed,
        rate=stan.least_rate,
        tolerance=tolerance,
        trained=trained,
        iteration=handle.iteration,
        image_ids=splits.train.ids[chosen].tolist(),
        layers=layer_results(report),
        left_alone=left_alone((line.name, line.reason) for line in handle.report),
        picture=str(picture),
    )
    show_entries(console, result)
    write_json(result, json)


def _check_picture(path: Path) -> Path:
    """Return the picture's file; raises UsageError now, and not after a training, where it is no possible one."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path} is no PNG file; name one that ends in .png")
    check_file("--out", path)
    return path


def _read(path: Path, problem: Problem) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return setting and state of a training of the problem, such as `stantune train --checkpoint` keeps.

    Raises:
        UsageError: there is no such file, or it is another problem's.
        CheckpointError: it cannot be read, or is cut short or altered.
    """
    from stantune.training import archive
    from stantune.training import checkpoint as checkpoints

    if not path.is_file():
        raise UsageError(f"--checkpoint {path} is no file; name a training's, or leave it out")
    try:
        identity = archive.read(path.read_bytes())["identity"]
        about = jsons.loads(identity)
        name, setting = about["problem"], about["setting"]
    except Exception:
        # Of the many things that are no checkpoint the loading below tells which this is.
        identity, name, setting = "", problem.name, {}
    state = checkpoints.load(path, identity)
    if state is None or name != problem.name:
        raise UsageError(f"--checkpoint {path} is a training of problem {name!r}, not of {problem.name!r}")
    return setting, state


def _restore(trial: Trial, problem: Problem, state: Mapping[str, Any], path: Path | None) -> None:
    from stantune.report.stan.looking import take_weights

    try:
        take_weights(trial, state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"--checkpoint {path} does not fit the network that problem {problem.name!r} has now; undo the change, or "
            "give another file"
        ) from error


def _train(trial: Trial, iterations: int, console: Console) -> None:
    from stantune.report.live import training_progress

    with stoppable() as stop, training_progress(console, iterations) as moved:
        diverged, interrupted = trial.train(iterations, stop.asked, moved)
    if diverged:
        raise StantuneError(
            f"the training diverged at iteration {trial.iteration}; look earlier with --iterations, or at another "
            "training with --checkpoint"
        )
    if interrupted:
        raise StantuneError(f"interrupted at iteration {trial.iteration}; nothing is kept of it")
