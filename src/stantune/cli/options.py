"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stantune.arguments import MOST, MOST_AT_ONCE
from stantune.cli.output import check_file
from stantune.cli.streams import reserve_stdout

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
        metavar="PROBLEM",
        help="A built-in problem, your own as FILE.py or FILE.py:NAME (searches take objectives, too), or Caffe's, a "
        "network's FILE.prototxt.",
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
    typer.Option(
        "--data",
        metavar="DIR",
        help="Where data sets are kept (default of built-in ones: $STANTUNE_DATA, else the cache).",
    ),
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
        help="Threads of each training; auto: what is fastest here, of a Problem (default: PyTorch's, of a command "
        "$OMP_NUM_THREADS or all cores; 1 with several --workers).",
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
        help="Trainings that take turns in each process, for a GPU that one alone leaves without work.",
    ),
]
SearchWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=MOST_AT_ONCE,
        help="Processes that train side by side (default: 1; with Ray, all there is room for).",
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
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="SHARE[:UNTIL]",
        help="Average images to this share of their sides up to this share of R: 1/2:1/3.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="NUMBERS", help="bf16, tf32 (CUDA) or fp32 (default: as PyTorch is set)."),
]
Compile = Annotated[bool, typer.Option("--compile", help="Have torch.compile compile the network; not with STAN.")]
SearchCompile = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile", help="Have torch.compile compile networks; not with STAN.", show_default=False
    ),
]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Stop in good order after 30m, 2h, …; go on later.")
]
Retries = Annotated[
    int, typer.Option("--retries", min=0, help="How often a training that failed is tried again, in each rung.")
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
        help="So many of the best settings are trained exactly in the end, and the best of them wins; where all "
        "diverge, up to three more are.",
    ),
]
Accelerate = Annotated[str, typer.Option("--accelerate", metavar="stan|none", help="How trials are trained.")]
SearchAccelerate = Annotated[
    str | None,
    typer.Option(
        "--accelerate",
        metavar="stan|stan:auto|stan:RATE,…|none",
        help="How trials are trained (default: stan, none under --compile); or by rung, with rates from the lowest up: "
        "stan:0.25,0.5,1, or stan:auto.",
    ),
]
SearchRate = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="RATE|auto|annealed",
        help="Share of the entries that STAN computes (default: 0.5; of own problems 1, unless more is said).",
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
Fixed = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Hold a parameter at a value in all settings; repeatable."),
]
Iterations = Annotated[
    int | None, typer.Option("--iterations", max=MOST, help="How many (default: the problem's own number).")
]
FullTrain = Annotated[bool, typer.Option("--full-train", help="Train on all training images, none held out.")]
