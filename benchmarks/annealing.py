"""Error against time of trainings whose rate changes in their course, beside shorter ones and ones on smaller images.

    nice python benchmarks/annealing.py --problems cq residual8 --seeds 3        # trainings: errors, no quiet needed
    python benchmarks/annealing.py --problems cq residual8 --time                # an iteration's time, in the quiet
    python benchmarks/annealing.py --table

The protocol, written before anything was trained. Problems: `cq` (5 000 iterations), `alexbn`, `alexlrn` (6 000, whose
rate of learning is constant so early) and `residual8`, a ResNet-8 on CIFAR-10 (3 000, a cosine to its end). Nothing is
held out; what counts is the error of the test images after the last iteration. A seed's trainings have the same
weights and the same data in the same order; differences are taken seed by seed, and their interval is Student's of
95 %.

Schedules (SCHEDULES): a rate from a share of the training on. "/1" is an exact iteration after every reduced one while
the rate is below 1, "/none" only reduced ones. All convolutions are reduced, except in "half, default layers": those
that the problem names. Beside them, all exact and native:

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
import itertools
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from paired import difference_text
from side_by_side import setting, table
from torch import Tensor

from stantune.compare.comparison import scaled
from stantune.errors import NoEffectWarning
from stantune.images.data import Batches
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.process.runtime import tune_process
from stantune.seeds import derive
from stantune.stan.config import ANNEALED, Stan
from stantune.training.train import run
from stantune.training.trial import Trial

HERE = Path(__file__).parent
ITERATIONS = {"cq": 5000, "alexbn": 6000, "alexlrn": 6000, "residual8": 3000}
RESIZED = ("residual8",)
LENGTHS = tuple(Fraction(tenths, 10) for tenths in (4, 5, 6, 7, 8, 9))
SIDE = 32
# Of --time: iterations in a turn (whole cycles of two), and turns. A kind that is timed trains by its rate throughout.
TURN, TURNS = 6, 10

Course = tuple[tuple[Fraction, float], ...]


class Kind(NamedTuple):
    """Iterations that take the same time: under this rate and period, in these layers, on images of this side."""

    rate: float
    period: int | None
    layers: str
    side: int

    @property
    def name(self) -> str:
        """Its name in the file."""
        return f"{self.rate:g}/{_text(self.period)} {self.layers} {self.side}" if self.rate < 1 else f"1 {self.side}"


@dataclass(frozen=True)
class Schedule:
    """One way of training.

    Attributes:
        name: in tables and in the file; unique.
        rates: (from which share of the training on, rate).
        period: of the reduced iterations; None for no exact ones between them.
        layers: "all", or "default" for those that the problem names.
        sides: (from which share of the training on, side of the images).
        length: share of the problem's iterations that it has, the course of its rate of learning scaled.
    """

    name: str
    rates: Course = ((Fraction(0), 1.0),)
    period: int | None = 1
    layers: str = "all"
    sides: tuple[tuple[Fraction, int], ...] = ((Fraction(0), SIDE),)
    length: Fraction = Fraction(1)

    def stan(self, problem: Problem, iterations: int) -> Stan:
        """Return STAN's settings of a training of so many iterations."""
        starts = {math.ceil(share * iterations): rate for share, rate in self.rates}
        one = len(starts) == 1
        return Stan(
            rate=self.rates[0][1] if one else tuple(starts.items()),
            period=self.period,
            iterations=iterations,
            layers=problem.stan_layers if self.layers == "default" else ("*",),
        )

    @property
    def kinds(self) -> dict[Kind, Fraction]:
        """The kinds of its iterations, with their shares of the problem's iterations."""
        shares: dict[Kind, Fraction] = {}
        edges = [*sorted({start for start, _ in (*self.rates, *self.sides)}), Fraction(1)]
        for start, stop in itertools.pairwise(edges):
            rate, side = _at(self.rates, start), _at(self.sides, start)
            kind = Kind(rate, self.period, self.layers, side) if rate < 1 else Kind(1.0, 1, "all", side)
            shares[kind] = shares.get(kind, Fraction(0)) + (stop - start) * self.length
        return shares


def _schedules() -> Iterator[Schedule]:
    zero, half = Fraction(0), Fraction(1, 2)
    yield Schedule("exact")
    yield Schedule("half, default layers /1", ((zero, 0.5),), 1, "default")
    courses: dict[str, Course] = {
        "annealed": ANNEALED,
        "quarter, exact from 1/2": ((zero, 0.25), (half, 1.0)),
        "quarter": ((zero, 0.25),),
        "half": ((zero, 0.5),),
        "half, exact from 1/2": ((zero, 0.5), (half, 1.0)),
        "quarter, exact from 2/3": ((zero, 0.25), (Fraction(2, 3), 1.0)),
        "quarter, half from 1/9, exact from 1/3": ((zero, 0.25), (Fraction(1, 9), 0.5), (Fraction(1, 3), 1.0)),
        "quarter, half from 1/2, exact from 9/10": ((zero, 0.25), (half, 0.5), (Fraction(9, 10), 1.0)),
    }
    for name, rates in courses.items():
        for period in (1, None):
            yield Schedule(f"{name} /{_text(period)}", rates, period)


def _text(period: int | None) -> str:
    return "none" if period is None else str(period)


def _at(course: Sequence[tuple[Any, Any]], place: Fraction | int) -> Any:
    """Return what holds at this share of the training, or at this iteration."""
    return next(value for start, value in reversed(course) if start <= place)


SCHEDULES = tuple(_schedules())
SHORTER = tuple(Schedule(f"exact, {float(length):g} as long", length=length) for length in LENGTHS)
_TWO = {
    f"{side}x{side} until {until}": ((Fraction(0), side), (until, SIDE))
    for side, until in ((16, Fraction(1, 3)), (16, Fraction(1, 2)), (16, Fraction(2, 3)), (24, Fraction(1, 2)))
}
SMALLER = tuple(Schedule(name, sides=sides) for name, sides in _TWO.items())
_HALF_SMALL = _TWO["16x16 until 1/2"]
BOTH = (
    Schedule("16x16 and quarter until 1/2 /1", ((Fraction(0), 0.25), (Fraction(1, 2), 1.0)), 1, sides=_HALF_SMALL),
    Schedule(
        "16x16 until 1/3, quarter until 2/3 /1",
        ((Fraction(0), 1.0), (Fraction(1, 3), 0.25), (Fraction(2, 3), 1.0)),
        1,
        sides=_TWO["16x16 until 1/3"],
    ),
)


def schedules_of(problem: Problem) -> list[Schedule]:
    """Return what is trained of a problem."""
    own = [each for each in SCHEDULES if each.layers == "all" or problem.stan_layers != ("*",)]
    return [*own[:3], *SHORTER, *own[3:], *((*SMALLER, *BOTH) if problem.name in RESIZED else ())]


class _Resizing:
    """Batches whose images (B, C, 32, 32) are averaged to a side that changes in the course of the training."""

    def __init__(self, batches: Batches, sides: Sequence[tuple[int, int]]) -> None:
        self._batches = batches
        self._sides = sides

    def at(self, iteration: int) -> Any:
        """Return the batch of an iteration; see Batches."""
        batch = self._batches.at(iteration)
        return batch._replace(inputs=resized(batch.inputs, _at(self._sides, iteration)))


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
    return find(f"{HERE / 'residual8.py'}:problem" if name == "residual8" else name)


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


def share_of_time(schedule: Schedule, milliseconds: Mapping[str, float]) -> float:
    """Return a schedule's time as a share of native exact training's."""
    exact = milliseconds[Kind(1.0, 1, "all", SIDE).name]
    return sum(float(share) * milliseconds[kind.name] / exact for kind, share in schedule.kinds.items())


def shorter_error(errors: Mapping[float, float], length: float) -> float | None:
    """Return the error of exact training of this length: of {length: error}, between the two nearest; None outside."""
    there = sorted(errors)
    if not there or not there[0] <= length <= there[-1]:
        return None
    right = next(each for each in there if each >= length)
    if right == length or right == there[0]:
        return errors[right]
    left = max(each for each in there if each < right)
    return errors[left] + (errors[right] - errors[left]) * (length - left) / (right - left)


def report(records: Sequence[Mapping[str, Any]], name: str, iterations: int) -> str:
    """Return a problem's table."""
    problem = problem_of(name)
    own = [one for one in records if (one["problem"], one["iterations"]) == (problem.name, iterations)]
    milliseconds: dict[str, float] = next((one["milliseconds"] for one in reversed(own) if "milliseconds" in one), {})
    errors: dict[str, dict[int, float]] = {}
    diverged: dict[str, int] = {}
    for one in own:
        if "schedule" not in one:
            continue
        if one["test_error"] is None:
            diverged[one["schedule"]] = diverged.get(one["schedule"], 0) + 1
        else:
            errors.setdefault(one["schedule"], {})[one["seed"]] = one["test_error"]
    exact = errors.get("exact", {})
    lengths = {float(each.length): errors.get(each.name, {}) for each in SHORTER} | {1.0: exact}
    points = {}
    for each in schedules_of(problem):
        there = errors.get(each.name, {})
        if there and set(there) <= set(exact):
            share = share_of_time(each, milliseconds) if milliseconds else math.nan
            points[each.name] = share, {seed: there[seed] - exact[seed] for seed in sorted(there)}
    rows = []
    for each_name, (share, above) in points.items():
        mean = statistics.fmean(above.values())
        beaten = any(
            other_share <= share and statistics.fmean(other.values()) <= mean and other_name != each_name
            for other_name, (other_share, other) in points.items()
        )
        shorter = {
            seed: shorter_error({at: of[seed] for at, of in lengths.items() if seed in of}, share) for seed in above
        }
        against = [above[seed] + exact[seed] - error for seed, error in shorter.items() if error is not None]
        mine = f"{statistics.fmean(errors[each_name].values()):.2f}"
        lost = f" ({diverged[each_name]} diverged)" if each_name in diverged else ""
        timed = not math.isnan(share)
        rows.append(
            (
                each_name,
                str(len(above)) + lost,
                f"{share:.2f}" if timed else "–",
                f"{1 / share:.2f}" if timed else "–",
                f"{milliseconds['stock'] / milliseconds[Kind(1.0, 1, 'all', SIDE).name] / share:.2f}" if timed else "–",
                mine,
                difference_text(list(above.values())),
                difference_text(against),
                "–" if not timed else "" if beaten else "yes",
            )
        )
    columns = (
        "schedule",
        "seeds",
        "time",
        "× native exact",
        "× stock",
        "test error, %",
        "above exact",
        "above exact of the same time",
        "on the frontier",
    )
    head = f"`{problem.name}`, {iterations} iterations"
    if milliseconds:
        stock, native = milliseconds["stock"], milliseconds[Kind(1.0, 1, "all", SIDE).name]
        head += f"; an exact iteration {native:.2f} ms, by stock PyTorch {stock:.2f} ms"
    return f"{head}\n\n{table(columns, rows)}" if rows else f"{head}: nothing is trained yet"


def _records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _add(file: Path, record: Mapping[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(f"{json.dumps(record)}\n")


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
    parser.add_argument("--keep", type=Path, default=HERE / "results" / "annealing.jsonl")
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

    records = _records(options.keep)
    if options.time:
        for name in options.problems:
            iterations = options.iterations or ITERATIONS[name]
            took = times(*of(name), iterations)
            records.append({"problem": name, "iterations": iterations, "milliseconds": took, "setting": setting(1)})
            _add(options.keep, records[-1])
    elif not options.table:
        for name, iterations, schedule, seed in missing(records, options.problems, options):
            words = "-".join("".join(letter if letter.isalnum() else " " for letter in schedule.name).split())
            file = options.under_way / f"{name}-{iterations}-{words}-{seed}.pt"
            record = train(*of(name), schedule, iterations, seed, file)
            records.append(record)
            _add(options.keep, record)
            error = record["test_error"]
            end = "diverged" if error is None else f"{error:.2f} %"
            print(f"{time.strftime('%H:%M:%S')} {name}, {schedule.name}, seed {seed}: {end}", flush=True)
    for name in options.problems:
        print(f"\n{report(records, name, options.iterations or ITERATIONS[name])}")


if __name__ == "__main__":
    main()
