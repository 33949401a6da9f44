"""meProp against ordinary back propagation on MNIST: errors and times, in its authors' setting and in ours.

    python -m benchmarks.trainings.meprop train [--settings authors,ours] [--top-k 0,80] [--forms unified] [--seeds 0]
    python -m benchmarks.trainings.meprop time [--settings authors,ours] [--top-k 10,20,40,80] [--forms …] [--rounds 25]
    python -m benchmarks.trainings.meprop table
    python -m benchmarks.trainings.meprop sizes [--threads 1,2] [--hidden 500,2048] [--top-k 80] [--rounds 25]

"authors" is the problem `meprop`: two hidden layers of 500, 55 000 images to train on and 5 000 for development; "ours"
is `mlp`: one hidden layer of 500, 50 000 and 10 000. Top-k 0 is plain training. `train` trains 20 epochs, looks at the
development images eight times in each, and keeps the test errors of the last weights and of the best ones (of equal
ones the last). `time` measures the processor time of a step, with one thread, and that of a plain one in the same
rounds. Both add to benchmarks/results/meprop.jsonl, one line each, leave out what is there, and may be ended at any
moment; `table` prints what is there.

`sizes` prints medians of interleaved rounds for other widths: batch 100 of random images, 784 - hidden - 10; processor
time with one thread, wall time with more. "limit" is the ratio of the backward passes' multiply-adds, so what a form
could gain at most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.common.kept import RESULTS, Kept
from benchmarks.common.side_by_side import table
from stantune.images.problem.built_in import Problem, find
from stantune.process.runtime import tune_process
from stantune.protocols import best_point
from stantune.seeds import derive
from stantune.training.best import Best
from stantune.training.train import run

BATCH = 100
INPUTS = 28 * 28
CLASSES = 10
STEPS = 5
EPOCHS, LOOKS = 20, 8
SETTINGS = {"authors": "meprop", "ours": "mlp"}
PLAIN, PER_EXAMPLE, UNIFIED, SPARSE_BIAS = "plain", "per-example", "unified", "sparse-bias"
# The problem's options that each form is, besides top_k.
FORMS = {PLAIN: "", PER_EXAMPLE: "", UNIFIED: ":unified=true", SPARSE_BIAS: ":sparse_bias=true"}


class Key(NamedTuple):
    """What is trained or timed once; `seed` is -1 where it is timed."""

    setting: str
    form: str
    top_k: int
    seed: int


@dataclass(frozen=True)
class Record:
    """What a training, or the timing of a step, came to.

    Attributes:
        setting, form, top_k, seed: see Key.
        figures: of a training "last" and "best" (test errors in %), "best_at" (its iteration), "development" (the
            error there) and "seconds" (processor time, the looks included); of a timing "backward", "step",
            "plain_backward" and "plain_step", medians in ms, and "backward_gain" and "step_gain", medians of the
            rounds' ratios.
    """

    setting: str
    form: str
    top_k: int
    seed: int
    figures: Mapping[str, float]

    @property
    def key(self) -> Key:
        """What it is of."""
        return Key(self.setting, self.form, self.top_k, self.seed)


def records_in(file: Path) -> Kept[Record]:
    """Return what was kept so far."""
    return Kept(file, lambda plain: Record(**plain), lambda record: record.key)


def cells(settings: Sequence[str], forms: Sequence[str], kept: Sequence[int]) -> list[tuple[str, str, int]]:
    """Return (setting, form, top_k) of all that is asked for; plain training once in each setting.

    Without what a setting's space does not have: ours ends at 100.
    """
    found = [
        (setting, PLAIN if top_k == 0 else form, top_k)
        for top_k in kept
        for form in forms
        for setting in settings
        if top_k <= find(SETTINGS[setting]).space["top_k"].high  # type: ignore[union-attr]
    ]
    return list(dict.fromkeys(found))


def trained(key: Key) -> dict[str, float]:
    """Train a cell for 20 epochs; return what it came to."""
    problem = find(SETTINGS[key.setting] + FORMS[key.form])
    splits = problem.load()
    points = [round(problem.iterations * look / (EPOCHS * LOOKS)) for look in range(1, EPOCHS * LOOKS)]
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(
            problem,
            {"top_k": key.top_k},
            None,
            0,
            problem.iterations,
            splits=splits,
            seed=derive("train", key.seed),
            evaluate=("validation", "test"),
            best=Best(Path(folder) / "best.pt", tuple(points), problem.metric),
        )
    seconds = time.process_time() - began
    at = best_point(problem.metric, outcome.curve)
    assert at is not None
    return {
        "last": outcome.metrics["test error"],
        "best": outcome.curve[at]["test error"],
        "best_at": at,
        "development": outcome.curve[at]["validation error"],
        "seconds": seconds,
    }


def train(file: Path, wanted: Sequence[tuple[str, str, int]], seeds: Sequence[int]) -> None:
    """Train all that is not in the file yet, seed by seed; add it there."""
    kept = records_in(file)
    for seed in seeds:
        for cell in wanted:
            key = Key(*cell, seed)
            if key not in kept.records:
                kept.add(Record(*key, trained(key)))
                print(kept.records[key], flush=True)


Times = list[tuple[float, float]]


def clock() -> float:
    """Return seconds: of the processor with one thread, so that other programs do not count; else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def stepper(problem: Problem, setting: Mapping[str, Any]) -> Callable[[], tuple[float, float]]:
    """Return a function that trains one step and returns the seconds of its backward pass and of all of it."""
    network: nn.Module = problem.build(setting)
    optimizer, criterion = problem.optimizer(network, setting), problem.criterion(setting)
    images = torch.rand(BATCH, 1, 28, 28)
    labels = torch.randint(CLASSES, (BATCH,))

    def step() -> tuple[float, float]:
        began = clock()
        loss = criterion(network(images), labels)
        optimizer.zero_grad()
        back = clock()
        loss.backward()  # type: ignore[no-untyped-call]
        done = clock()
        optimizer.step()
        return done - back, clock() - began

    return step


def measure(sides: Mapping[str, tuple[Problem, Mapping[str, Any]]], rounds: int) -> dict[str, Times]:
    """Return each side's milliseconds (backward, step) in each round; a round takes every side in turn."""
    torch.manual_seed(0)
    steppers = {name: stepper(problem, setting) for name, (problem, setting) in sides.items()}
    times: dict[str, Times] = {name: [] for name in sides}
    for number in range(rounds + 2):
        for name, step in steppers.items():
            step()
            taken = [step() for _ in range(STEPS)]
            if number >= 2:  # the first rounds warm up
                backward, whole = (statistics.median(column) * 1e3 for column in zip(*taken, strict=True))
                times[name].append((backward, whole))
    return times


def gains(plain: Times, other: Times) -> tuple[float, float]:
    """Return how many times faster (backward, step): the median of the rounds' ratios, free of the machine's drift."""
    backward, step = (
        statistics.median(one[part] / two[part] for one, two in zip(plain, other, strict=True)) for part in (0, 1)
    )
    return backward, step


def time_steps(file: Path, wanted: Sequence[tuple[str, str, int]], rounds: int) -> None:
    """Time all that is not in the file yet, each beside plain training; add it there."""
    kept = records_in(file)
    for setting, form, top_k in wanted:
        key = Key(setting, form, top_k, -1)
        if form == PLAIN or key in kept.records:
            continue
        sides = {
            PLAIN: (find(SETTINGS[setting]), {"top_k": 0}),
            form: (find(SETTINGS[setting] + FORMS[form]), {"top_k": top_k}),
        }
        times = measure(sides, rounds)
        medians = {
            name: [statistics.median(column) for column in zip(*each, strict=True)] for name, each in times.items()
        }
        backward, step = gains(times[PLAIN], times[form])
        figures = {
            "backward": medians[form][0],
            "step": medians[form][1],
            "plain_backward": medians[PLAIN][0],
            "plain_step": medians[PLAIN][1],
            "backward_gain": backward,
            "step_gain": step,
        }
        kept.add(Record(*key, figures))
        print(kept.records[key], flush=True)


def print_table(file: Path) -> None:
    """Print what is kept, as Markdown: a row for each setting, form and top-k."""
    records = list(records_in(file).records.values())
    rows = []
    for setting, form, top_k in sorted(
        {each.key[:3] for each in records}, key=lambda cell: (cell[0], list(FORMS).index(cell[1]), cell[2])
    ):
        mine = {each.seed: each.figures for each in records if each.key[:3] == (setting, form, top_k)}
        timed = mine.pop(-1, None)
        plain = {each.seed: each.figures for each in records if each.key[:2] == (setting, PLAIN)}
        pairs = {seed: (mine[seed], plain[seed]) for seed in mine if seed in plain and form != PLAIN}
        rows.append(
            [
                setting,
                form,
                str(top_k or ""),
                str(len(mine)),
                *(_spread([each[name] for each in mine.values()]) for name in ("last", "best")),
                *(
                    _spread([one[name] - other[name] for one, other in pairs.values()], signed=True)
                    for name in ("last", "best")
                ),
                f"{timed['backward_gain']:.2f}" if timed else "",
                f"{timed['step_gain']:.2f}" if timed else "",
            ]
        )
    header = [
        "setting", "form", "top-k", "seeds", "last, %", "best, %", "last above plain", "best above plain",
        "backward, times faster", "step, times faster",
    ]  # fmt: skip
    print(table(header, rows))


def _spread(values: Sequence[float], signed: bool = False) -> str:
    """Return a mean, and its standard error where there are two values or more."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{'+' if signed else ''}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def multiply_adds(hidden: int, kept: int) -> int:
    """Return those of a backward pass: the images need no gradient, and the last layer is never sparsified."""
    return BATCH * (INPUTS * kept + 2 * hidden * CLASSES)


def print_sizes(threads: Sequence[int], sizes: Sequence[int], top_k: int, rounds: int) -> None:
    """Print a Markdown table of backward passes and steps of `mlp`."""
    print(f"batch {BATCH}, top {top_k}, PyTorch {torch.__version__}, median of {rounds} rounds\n")
    rows = []
    for hidden in sizes:
        for count in threads:
            torch.set_num_threads(count)
            sides = {
                form: (find("mlp" + FORMS[form]), {"hidden": hidden, "top_k": 0 if form == PLAIN else top_k})
                for form in (PLAIN, PER_EXAMPLE, UNIFIED)
            }
            times = measure(sides, rounds)
            for form, values in times.items():
                backward, whole = zip(*values, strict=True)
                low, median, high = statistics.quantiles(backward, n=4)
                of_backward, of_step = gains(times[PLAIN], values)
                limit = multiply_adds(hidden, hidden) / multiply_adds(
                    hidden, hidden if form == PLAIN else min(top_k, hidden)
                )
                rows.append(
                    [
                        str(hidden),
                        str(count),
                        form,
                        f"{median:.2f}",
                        f"{low:.2f} … {high:.2f}",
                        f"{of_backward:.2f}",
                        f"{limit:.1f}",
                        f"{statistics.median(whole):.2f}",
                        f"{of_step:.2f}",
                    ]
                )
    header = ["hidden", "threads", "form", "ms backward", "quartiles", "times faster", "limit", "ms a step"]
    print(table([*header, "times faster"], rows))


def integers(text: str) -> list[int]:
    """Parse "1,2"."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Train, time or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "time", "table", "sizes"])
    parser.add_argument("--settings", type=lambda text: text.split(","), default=list(SETTINGS))
    parser.add_argument("--forms", type=lambda text: text.split(","), default=[PER_EXAMPLE, UNIFIED])
    parser.add_argument("--top-k", type=integers, help="by default 0,80 to train, 10 … 160 to time, 80 for sizes")
    parser.add_argument("--seeds", type=integers, default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--hidden", type=integers, default=[500, 2048])
    parser.add_argument("--threads", type=integers, default=[1, 2])
    parser.add_argument("--keep", type=Path, default=RESULTS / "meprop.jsonl", help="the file of records")
    asked = parser.parse_args()
    tune_process(asked.threads[0])
    if asked.what == "train":
        train(asked.keep, cells(asked.settings, asked.forms, asked.top_k or [0, 80]), asked.seeds)
    elif asked.what == "time":
        wanted = cells(asked.settings, asked.forms, asked.top_k or [10, 20, 40, 80, 160])
        time_steps(asked.keep, wanted, asked.rounds)
    elif asked.what == "table":
        print_table(asked.keep)
    else:
        print_sizes(asked.threads, asked.hidden, (asked.top_k or [80])[0], asked.rounds)


if __name__ == "__main__":
    main()
