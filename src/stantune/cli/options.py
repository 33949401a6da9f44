"""The options that several commands share, and how their texts become settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stantune.arguments import MOST, MOST_AT_ONCE, digits, typed_number
from stantune.cli.streams import print_result, reserve_stdout
from stantune.errors import StantuneError, UsageError
from stantune.files import check_writable, write_whole
from stantune.texts import brief

if TYPE_CHECKING:
    # Imported for real where they are used: PyTorch and Optuna take seconds, and `--help` needs none of them.
    from pydantic import BaseModel
    from rich.console import Console

    from stantune.images.problem.built_in import Problem, Splits
    from stantune.protocols import Objective
    from stantune.stan.config import Stan

QUICK_ITERATIONS = 600
SEARCH_RATE = "0.5"
_state = {"debug": False}


def debugging() -> bool:
    """Tell whether --debug was given."""
    return _state["debug"]


def _set_debug(value: bool) -> bool:
    _state["debug"] = _state["debug"] or value
    return value


def _check_json(target: str | None) -> str | None:
    """Raise UsageError now, and not after hours of training, where --json names no file that can be written."""
    if target == "-":
        reserve_stdout()
    elif target is not None:
        check_file("--json", Path(target))
    return target


ProblemName = Annotated[
    str,
    typer.Argument(
        metavar="PROBLEM", help="A built-in problem, your own as FILE.py:NAME, or Caffe's, a network's FILE.prototxt."
    ),
]
CaffeSolver = Annotated[
    Path | None, typer.Option("--solver", metavar="FILE", help="Caffe's solver for a network's FILE.prototxt.")
]
CaffeDataset = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="The built-in data set that FILE.prototxt trains on.")
]
CaffeBatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", help="Images in an iteration of FILE.prototxt (default: as its data layer says)."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", callback=_set_debug, is_eager=True)]
SearchDebug = Annotated[
    bool,
    typer.Option("--debug/--no-debug", help="Show tracebacks.", callback=_set_debug, is_eager=True, show_default=False),
]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - for stdout.", callback=_check_json),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Where data sets are kept (default: $STANTUNE_DATA, else the cache)."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=MOST_AT_ONCE, help="Threads of a training (default: PyTorch's)."),
]
AnyThreads = Annotated[
    str | None,
    typer.Option(
        "--threads", metavar="N|auto", help="Threads of a training; auto: what is fastest here (default: PyTorch's)."
    ),
]
SearchThreads = Annotated[
    str | None,
    typer.Option(
        "--threads",
        metavar="N|auto",
        help="Threads of each training; auto: what is fastest here (default: PyTorch's; 1 with several --workers).",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", metavar="N", min=1, max=MOST_AT_ONCE, help="Trainings side by side, each in a process of its own."
    ),
]
Together = Annotated[
    int,
    typer.Option(
        "--together",
        metavar="K",
        min=1,
        max=MOST_AT_ONCE,
        help="Trainings that take turns in one process, for a GPU that one alone leaves without work.",
    ),
]
SearchWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=MOST_AT_ONCE,
        help="Trainings side by side, each in a process of its own (default: 1; with Ray, all there is room for).",
    ),
]
Executor = Annotated[str, typer.Option("--executor", metavar="local|ray", help="Train here, or on a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT|auto", help="Of the Ray cluster (default: auto).")
]
Checkpoints = Annotated[
    str | None,
    typer.Option("--checkpoints", metavar="URL", help="Where nodes keep them if DIR is not shared: s3://… and more."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="NUMBERS", help="bf16, tf32 (CUDA) or fp32 (default: as PyTorch is set)."),
]

Quick = Annotated[
    bool,
    typer.Option("--quick/--no-quick", help=f"A small search: R = {QUICK_ITERATIONS}.", show_default=False),
]
MaxIterations = Annotated[
    int | None,
    typer.Option("--max-iterations", "--max-resource", metavar="R", help="Most iterations of a trial (default: all)."),
]
MinIterations = Annotated[
    int | None,
    typer.Option(
        "--min-iterations", "--min-resource", metavar="r", help="Least iterations before a trial may be dropped."
    ),
]
Eta = Annotated[int, typer.Option("--eta", help="One trial of ETA is promoted in each rung.")]
Plan = Annotated[
    str,
    typer.Option(
        "--plan",
        metavar="hyperband|wide|measured",
        help="Hyperband; one wide bracket; or brackets that begin where rungs are found to order settings well.",
    ),
]
Brackets = Annotated[str, typer.Option("--brackets", metavar="all|N", help="How many brackets, from the widest on.")]
Variant = Annotated[str, typer.Option("--variant", metavar="algorithm1|table1", help="How trials are rounded.")]
Mode = Annotated[
    str, typer.Option("--mode", metavar="sync|async", help="Hyperband, or ASHA, which waits for no rung's end.")
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        metavar="N",
        help="Settings that ASHA tries (default: what costs as much as Hyperband), or --plan wide (half of that).",
    ),
]
Sampler = Annotated[str, typer.Option("--sampler", metavar="random|tpe|bohb", help="What proposes settings.")]
Lag = Annotated[
    int,
    typer.Option("--lag", min=1, help="What models and ASHA see: that of so many workers; give twice yours, or more."),
]

Validation = Annotated[
    str,
    typer.Option(
        "--validation",
        metavar="all|by-rung",
        help="What trials are compared by: the whole validation set, or a part of it that grows with the rungs.",
    ),
]
Final = Annotated[
    str,
    typer.Option(
        "--final",
        metavar="scratch|continue|none",
        help="The best setting is trained anew; its trial, if it ended exactly, is taken as it is; or neither.",
    ),
]
FinalIterations = Annotated[
    int | None,
    typer.Option(
        "--final-iterations", "--final-resource", metavar="N", help="Iterations of a final training (default: R)."
    ),
]
Finalists = Annotated[
    int,
    typer.Option(
        "--finalists",
        min=1,
        metavar="K",
        help="So many of the best settings are trained exactly in the end, and the best of them wins.",
    ),
]

Accelerate = Annotated[str, typer.Option("--accelerate", metavar="stan|none", help="How trials are trained.")]
SearchAccelerate = Annotated[
    str,
    typer.Option(
        "--accelerate",
        metavar="stan|stan:auto|stan:RATE,…|none",
        help="How trials are trained; or by rung, with rates from the lowest up: stan:0.25,0.5,1, or stan:auto.",
    ),
]
SearchRate = Annotated[
    str | None,
    typer.Option(
        "--rate", metavar="RATE|auto|annealed", help="Share of the entries that STAN computes (default: 0.5)."
    ),
]
Rate = Annotated[
    str,
    typer.Option(
        "--rate",
        metavar="RATE|auto|annealed",
        help="Share of the entries that STAN computes: 0.5, 0.25, auto, or annealed: 1/4, then 1/2, in the end all.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option("--tolerance", help="Relative error that a layer may have; it then chooses among the patterns."),
]
Period = Annotated[
    str,
    typer.Option("--period", metavar="Z|none", help="Reduced iterations after each exact one; none: no exact ones."),
]
# As Stan() has it, which is not imported before it is needed.
PERIOD = "1"
SearchPeriod = Annotated[
    str | None,
    typer.Option(
        "--period",
        metavar="Z|none",
        help="Reduced iterations after each exact one; none: no exact ones (default: 1; 9 by rung).",
    ),
]
Pretrain = Annotated[int, typer.Option("--pretrain", metavar="p_t", max=MOST, help="Exact iterations at the start.")]
Tail = Annotated[int, typer.Option("--tail", max=MOST, help="Exact iterations at the end of a whole training.")]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="NAME",
        help="Convolutions that STAN reduces, as a shell pattern; repeatable (default: the problem's).",
    ),
]
SearchLayers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="NAME",
        help="Convolutions that STAN reduces, as a shell pattern; repeatable (default: the problem's; all by rung).",
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter's value; repeatable.")]
Iterations = Annotated[
    int | None, typer.Option("--iterations", max=MOST, help="How many (default: the problem's own number).")
]
FullTrain = Annotated[bool, typer.Option("--full-train", help="Train on all training images, none held out.")]


def console_for(json: str | None) -> Console:
    """Return where people read: standard output, or standard error where that is taken by JSON."""
    from rich.console import Console

    # Paths and values are printed as they are: no [markup] and no :emoji: in them.
    return Console(stderr=json == "-", highlight=False, markup=False, emoji=False)


def say_loading(what: str, json: str | None) -> None:
    """Say on a terminal what takes the next seconds; nothing that takes them may be imported before."""
    console = console_for(json)
    if console.is_terminal:
        console.print(f"loading {what} …")


def write_json(result: BaseModel, target: str | None) -> None:
    """Write a result where --json says.

    Raises:
        StantuneError: the file cannot be written.
    """
    if target is not None:
        write_text(result.model_dump_json(indent=2), target)


def write_text(text: str, target: str) -> None:
    """Write a text where --json says; raises StantuneError where it cannot be written."""
    try:
        if target == "-":
            print_result(text)
        else:
            write_whole(Path(target), f"{text}\n".encode())
    except OSError as error:
        raise StantuneError(f"--json {target} cannot be written ({error.strerror}); name another file") from error


def check_file(option: str, path: Path) -> None:
    """Raise UsageError now, and not after hours of training, where an option names no file that can be written."""
    try:
        check_writable(path)
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written ({error.strerror}); name another file") from error


def check_checkpoint(path: Path | None) -> None:
    """Make the folder that --checkpoint names; raises UsageError now where no file can be written there."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--checkpoint {path} cannot be written ({error.strerror}); name another file") from error
    check_file("--checkpoint", path)


def device_of(text: str) -> str:
    """Return the device to train on; raises UsageError where there is none such."""
    from stantune.process.runtime import device_named

    return device_named(text)


def is_caffe(name: str) -> bool:
    """Tell whether this names Caffe's file of a network."""
    return name.lower().endswith(".prototxt")


def named(name: str, solver: Path | None, dataset: str | None, batch_size: int | None = None) -> str | Problem:
    """Return the problem that Caffe's files are, where the name is that of one; the name itself for any other.

    Raises UsageError where an option for Caffe's files is missing, or given for another problem.
    """
    if not is_caffe(name):
        for option, value in (("--solver", solver), ("--dataset", dataset), ("--batch-size", batch_size)):
            if value is not None:
                raise UsageError(
                    f"{option} {brief(value)} is for Caffe's files, and {brief(name) or 'nothing'} is none; leave it "
                    "out, or give a network's FILE.prototxt"
                )
        return name
    missing = f"{brief(name)} is Caffe's file of a network"
    if solver is None:
        raise UsageError(f"{missing}, and --solver is missing; give its solver's file")
    if dataset is None:
        raise UsageError(f"{missing}, and --dataset is missing; give the data set, such as mnist")
    from stantune.images.prototxt.reading import from_caffe

    return from_caffe(name, solver, dataset, batch_size=batch_size)


def problem_of(what: str | Problem, layers: list[str] | None) -> Problem:
    """Return the problem of this name, with the --layers that are given as those that STAN reduces.

    Raises UsageError where there is none such; what is wrong with the layers shows where they are looked for.
    """
    import dataclasses

    from stantune.images.problem.built_in import find

    problem = find(what) if isinstance(what, str) else what
    return problem if layers is None else dataclasses.replace(problem, stan_layers=tuple(layers))


def setting_of(problem: Problem | Objective, assignments: list[str] | None) -> dict[str, Any]:
    """Return the setting that --set gives; raises UsageError where one is no assignment or outside the space."""
    setting = {}
    for assignment in assignments or []:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {brief(assignment)} is no assignment; write it as NAME=VALUE")
        if name in setting:
            raise UsageError(f"--set {brief(assignment)} gives {brief(name)} a second time; give each parameter once")
        setting[name] = problem.space.parse(name, text)
    return problem.space.check(setting)


def rate_of(text: str) -> float | Literal["auto", "annealed"]:
    """Return the value of --rate; raises UsageError where it is none."""
    if text == "auto":
        return "auto"
    if text == "annealed":
        return "annealed"
    rate = typed_number(text)
    if rate is None:
        raise UsageError(
            f"--rate {brief(text)} is no share of the entries; give a number such as 0.5, or auto, or annealed"
        )
    return rate


def period_of(text: str) -> int | None:
    """Return the value of --period; raises UsageError where it is none."""
    reduced = digits(text)
    if text != "none" and reduced is None:
        raise UsageError(
            f"--period {brief(text)} is no number of iterations, 0 or more; give one, or none for no exact ones"
        )
    return reduced


def stan_of(
    accelerate: str,
    rate: str,
    tolerance: float | None,
    period: str,
    pretrain: int,
    tail: int,
    iterations: int,
    problem: Problem,
) -> Stan | None:
    """Return STAN's settings, or None for --accelerate none; raises UsageError."""
    from stantune.stan.config import Stan

    if accelerate not in ("stan", "none"):
        raise UsageError(f"--accelerate {brief(accelerate)} is unknown; give stan or none")
    reduced = period_of(period)
    if pretrain + tail > iterations:
        raise UsageError(
            f"--pretrain {pretrain} and --tail {tail} are more than the training's {iterations} iterations; give less"
        )
    # All options are looked at, whether they are used or not.
    stan = Stan(
        rate=rate_of(rate),
        tolerance=tolerance,
        period=reduced,
        pretrain=pretrain,
        tail=tail,
        iterations=iterations,
        layers=problem.stan_layers,
    )
    return None if accelerate == "none" else stan


def brackets_of(text: str) -> int | None:
    """Return the value of --brackets, None for all; raises UsageError where it is none."""
    number = digits(text)
    if text != "all" and number is None:
        raise UsageError(f"--brackets {brief(text)} is neither all nor a number; give one of them")
    return number


def accelerated_by_rung(accelerate: str) -> tuple[float, ...] | Literal["auto"]:
    """Return the rates that stand behind "stan:" in --accelerate, () where none do; raises UsageError."""
    kind, by_rung, text = accelerate.partition(":")
    if not by_rung:
        return ()
    if kind != "stan":
        raise UsageError(f"--accelerate {brief(accelerate)} is unknown; give stan, stan:auto, stan:0.25,0.5,1 or none")
    if text == "auto":
        return "auto"
    rates = tuple(rate for rate in map(typed_number, text.split(",")) if rate is not None)
    if len(rates) <= text.count(","):
        raise UsageError(
            f"--accelerate {brief(accelerate)} names no rates; give stan:auto, or a rate for each rung from the lowest "
            "to the top, such as stan:0.25,0.5,1"
        )
    if len(rates) < 2:
        raise UsageError(
            f"--accelerate {accelerate} is one rate for all rungs; give --accelerate stan --rate {text}, or several "
            "rates, such as stan:0.25,0.5,1"
        )
    return rates


def load_splits(problem: Problem, data: Path | None, console: Console, full: bool = False) -> Splits:
    """Return the problem's data; a built-in data set that is not there yet is fetched first."""
    fetch_data(problem, data, console)
    return problem.load(data, full=full)


def fetch_data(problem: Problem, data: Path | None, console: Console) -> None:
    """Fetch the problem's data set if it is a built-in one that is not there yet."""
    from stantune.images.data import fetch, is_present

    if isinstance(problem.data, str) and not is_present(problem.data, data):
        fetch(problem.data, data, say=lambda line: console.print(line, soft_wrap=True))


def warn_of_no_effect(problem: Problem, stan: Stan | None, console: Console) -> None:
    """Say once, before the first trial, where STAN changes nothing; the trials themselves are silent about it."""
    import warnings

    from stantune.errors import NoEffectWarning
    from stantune.stan.surgery import accelerate_

    if stan is None:
        return
    if stan.rate == "auto":
        # What the planner leaves of it shows only in the training.
        stan = dataclasses.replace(stan, rate=0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NoEffectWarning)
        accelerate_(problem.tried({}), stan)
    for warning in caught:
        if issubclass(warning.category, NoEffectWarning):
            console.print(f"note: {warning.message}", soft_wrap=True)
    warnings.simplefilter("ignore", NoEffectWarning)


def warn_of_no_kernels(device: str, console: Console) -> None:
    """Say where STAN trains without its native kernels, which takes several times as long."""
    from stantune.kernels.library import lack

    if device == "cpu" and lack():
        console.print(f"note: {lack()}", soft_wrap=True)
