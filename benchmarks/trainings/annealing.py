"""Error against time of trainings whose rate changes in their course, beside shorter ones and ones on smaller images.

    nice python -m benchmarks.trainings.annealing --problems cq residual8 --seeds 3  # errors; no quiet needed
    python -m benchmarks.trainings.annealing --problems cq residual8 --time          # an iteration's time, in the quiet
    python -m benchmarks.trainings.annealing --table

The protocol, written before anything was trained. Problems: `cq` (5 000 iterations), `alexbn`, `alexlrn` (6 000, whose
rate of learning is constant so early) and `residual8`, a ResNet-8 on CIFAR-10 (3 000, a cosine to its end). Nothing is
held out; what counts is the error of the test images after the last iteration. A seed's trainings have the same
weights and the same data in the same order; differences are taken seed by seed, and their interval is Student's of
95 %.

Schedules (annealing_schedules.py): a rate from a share of the training on. "/1" is an exact iteration after every
reduced one while the rate is below 1, "/none" only reduced ones. All convolutions are reduced, except in "half, default
layers": those that the problem names. Beside them, all exact and native:

- shorter trainings (LENGTHS), the course of the rate of learning scaled to them. What exact training comes to in the
  same time as a schedule is read off these, between the two nearest lengths in a straight line, seed by seed.
- progressive resizing: images averaged to 16x16, or 24x24, in the first part of the training, whole ones in the rest.
  Only a network that ends in a global average can do that: `residual8`. The others have a layer of weights for each
  place of the last map.
- both: smaller images, and reduced iterations meanwhile or afterwards.

A schedule's time is that of its iterations, kind by kind: --time trains a few iterations of each kind in turns, on one
thread, and takes the least processor time of a turn. Times are given as a share of native exact training's.

A schedule is "on the frontier" where no other training has both less time and a lower mean error, shorter and smaller
ones among them. What is in --keep is not done again; a training that was cut goes on from --under-way.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.kept import RESULTS
from benchmarks.common.side_by_side import setting
from benchmarks.trainings.annealing_results import add, records_in, report
from benchmarks.trainings.annealing_schedules import SIDE, Schedule, schedules_of, value_at
from stantune.compare.comparison import scaled
from stantune.errors import NoEffectWarning
from stantune.images.data import Batches
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.process.runtime import tune_process
from stantune.seeds import derive
from stantune.training.train import run
from stantune.training.trial import Trial

ITERATIONS = {"cq": 5000, "alexbn": 6000, "alexlrn": 6000, "residual8": 3000}
# Of --time: iterations in a turn (whole cycles of two), and turns. A kind that is timed trains by its rate throughout.
TURN, TURNS = 6, 10


class _Resizing:
    """Batches whose images (B, C, 32, 32) are averaged to a side that changes in the course of the training."""

    def __init__(self, batches: Batches, sides: Sequence[tuple[int, int]]) -> None:
        self._batches = batches
        self._sides = sides

    def at(self, iteration: int) -> Any:
        """Return the batch of an iteration; see Batches."""
        batch = self._batches.at(iteration)
        return batch._replace(inputs=resized(batch.inputs, value_at(self._sides, iteration)))


def resized(images: Tensor, side: int) -> Tensor:
    """Return images (B, C, side, side), channels last, each pixel the mean of those that it covers."""
    return images if images.shape[-1] == side else F.adaptive_avg_pool2d(images, side)


@dataclass(frozen=True)
class Resized(Problem):
    """A problem that trains on images of these sides, (from which iteration on, side), and is tested on whole ones."""

    sides: tuple[tuple[int, int], ...] = ((0, SIDE),)

    def batches(self, splits: Any, setting: Mapping[str, Any], seed: int, device: str) -> Any:
        """See Trainable."""
        return _Resizing(super().batches(splits, setting, seed, device), self.sides)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See Trainable."""
        return {**super().identity, "sides": [list(each) for each in self.sides]}


def problem_of(name: str) -> Problem:
    """Return the problem of this name."""
    return find(f"{Path(__file__).with_name('residual8.py')}:problem" if name == "residual8" else name)


def prepared(problem: Problem, schedule: Schedule, iterations: int) -> Problem:
    """Return the problem as it is trained by a schedule, of whose training `iterations` would be the whole length."""
    problem = scaled(problem.lasting(iterations), schedule.length)
    sides = tuple((math.ceil(share * iterations * schedule.length), side) for share, side in schedule.sides)
    return problem if len(sides) == 1 else Resized(**vars(problem), sides=sides)


def train(
    problem: Problem, splits: Splits, schedule: Schedule, iterations: int, seed: int, file: Path
) -> dict[str, Any]:
    """Train by a schedule; return the record."""
    length = round(iterations * schedule.length)
    own = derive("train", seed)
    stan = replace(schedule.stan(problem, length), seed=own)
    trained = run(
        prepared(problem, schedule, iterations),
        {},
        file,
        0,
        length,
        splits=splits,
        seed=own,
        stan=stan,
        evaluate=("test",),
    )
    file.unlink(missing_ok=True)
    return {
        "problem": problem.name,
        "iterations": iterations,
        "schedule": schedule.name,
        "seed": seed,
        "test_error": trained.metrics.get("test error"),
        "diverged_at": trained.diverged_at,
        "setting": setting(1),
    }


def times(problem: Problem, splits: Splits, iterations: int) -> dict[str, float]:
    """Return the milliseconds of an iteration of each kind, of "stock" ones, too: the least of several turns each."""
    kinds = dict.fromkeys(kind for schedule in schedules_of(problem) for kind in schedule.kinds)
    trials: dict[str, Trial] = {}
    for kind in kinds:
        schedule = Schedule("", ((Fraction(0), kind.rate),), kind.period, kind.layers)
        of_side = Resized(**vars(problem.lasting(iterations)), sides=((0, kind.side),))
        trials[kind.name] = Trial(of_side, {}, splits, seed=0, stan=schedule.stan(problem, iterations))
    trials["stock"] = Trial(problem.lasting(iterations), {}, splits, seed=0, stan=None)
    took: dict[str, list[float]] = {name: [] for name in trials}
    for turn in range(TURNS):
        for name, trial in trials.items():
            # The first two find another one's data in the caches.
            trial.train(trial.iteration + 2, lambda: False, lambda iteration: None)
            began = time.thread_time()
            diverged, _ = trial.train(trial.iteration + TURN, lambda: False, lambda iteration: None)
            assert not diverged, f"{problem.name} diverges under {name}"
            if turn:
                took[name].append(1e3 * (time.thread_time() - began) / TURN)
    return {name: round(min(each), 4) for name, each in took.items()}


def missing(records: Iterable[Mapping[str, Any]], names: Sequence[str], options: argparse.Namespace) -> Iterator[Any]:
    """Yield (problem's name, iterations, schedule, seed) of what is not trained yet, seed by seed."""
    done = {(one["problem"], one["iterations"], one["schedule"], one["seed"]) for one in records if "schedule" in one}
    for seed in range(options.seeds):
        for name in names:
            iterations = options.iterations or ITERATIONS[name]
            for schedule in schedules_of(problem_of(name)):
                wanted = not options.schedules or schedule.name in options.schedules
                if wanted and (name, iterations, schedule.name, seed) not in done:
                    yield name, iterations, schedule, seed


def main() -> None:
    """Train or time what --keep does not hold yet; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(ITERATIONS), choices=list(ITERATIONS))
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, …")
    parser.add_argument("--schedules", nargs="+", metavar="NAME", help="only these, as the table names them")
    parser.add_argument("--iterations", type=int, help="of a whole training, to try the script")
    parser.add_argument("--time", action="store_true", help="time iterations, and train nothing to its end")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--keep", type=Path, default=RESULTS / "annealing.jsonl")
    parser.add_argument("--under-way", type=Path, default=Path("runs/annealing"), help="a folder for trainings")
    options = parser.parse_args()
    warnings.simplefilter("ignore", NoEffectWarning)
    tune_process(1)
    loaded: dict[str, tuple[Problem, Splits]] = {}

    def of(name: str) -> tuple[Problem, Splits]:
        if name not in loaded:
            problem = problem_of(name)
            loaded.clear()
            loaded[name] = problem, problem.load(full=True)
        return loaded[name]

    records = records_in(options.keep)
    if options.time:
        for name in options.problems:
            iterations = options.iterations or ITERATIONS[name]
            took = times(*of(name), iterations)
            records.append({"problem": name, "iterations": iterations, "milliseconds": took, "setting": setting(1)})
            add(options.keep, records[-1])
    elif not options.table:
        for name, iterations, schedule, seed in missing(records, options.problems, options):
            words = "-".join("".join(letter if letter.isalnum() else " " for letter in schedule.name).split())
            file = options.under_way / f"{name}-{iterations}-{words}-{seed}.pt"
            record = train(*of(name), schedule, iterations, seed, file)
            records.append(record)
            add(options.keep, record)
            error = record["test_error"]
            end = "diverged" if error is None else f"{error:.2f} %"
            print(f"{time.strftime('%H:%M:%S')} {name}, {schedule.name}, seed {seed}: {end}", flush=True)
    for name in options.problems:
        print(f"\n{report(records, problem_of(name), options.iterations or ITERATIONS[name])}")


if __name__ == "__main__":
    main()
