"""What the divergence guard spares and whom it wrongs: losses of random settings, each trained on whatever they are.

    python -m benchmarks.stopping.guard --settings 40 --iterations 400 --keep losses.jsonl

Setting i of a problem is trial i of `stantune search PROBLEM --seed SEED`. It is trained natively, with all entries and
without a guard, until its loss is no number or --iterations are done (of the problems on pixels as they are, which are
small, --raw-iterations), and its losses are kept. Then two guards read them, that of the package and the one of before
it (above ten times chance for twenty iterations in a row): iterations that each would have trained, and settings that
it would have called diverged although their loss is a number to the end. Of these, "falling" are those whose mean loss
of the last twenty iterations is below 0.9 of that of the twenty up to the verdict, and "learn" those whose network
errs in the end less than 0.9 of guessing.

What is in --keep is not trained again, so that the same command goes on, and more settings may be added.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from torch import nn

from benchmarks.common.side_by_side import table
from stantune import Float, Problem, Solver, Space
from stantune.errors import NoEffectWarning
from stantune.images.problem.built_in import BUILT_IN, Splits
from stantune.images.solving.evaluation import error_percent
from stantune.process.runtime import tune_process
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan
from stantune.training.guard import Guard
from stantune.training.trial import Trial

ERROR_IMAGES = 2000
# Losses that are compared, and what counts as less.
STRETCH = 20
LESS = 0.9


def linear() -> nn.Module:
    """Return a network without a hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def perceptron() -> nn.Module:
    """Return a network of one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


def _raw(name: str, network: Callable[[], nn.Module]) -> Problem:
    rates = Space({"lr": Float(1e-8, 1, log=True), "momentum": Float(0, 0.95)})
    return Problem(name, network, "mnist", rates, Solver(lr=1e-5), iterations=10_000, hold_out="last")


# Pixels from 0 to 255 as they are, as a user's first problem may have them: large first losses that fall all the same.
RAW = {"raw-linear": _raw("raw-linear", linear), "raw-perceptron": _raw("raw-perceptron", perceptron)}
PROBLEMS = {**BUILT_IN, **RAW}


class Run(NamedTuple):
    """One training: trial `number` of the search with this seed."""

    problem: str
    seed: int
    number: int
    iterations: int

    @property
    def key(self) -> str:
        """Its name in the file of finished trainings."""
        return " / ".join(map(str, self))


class Trained(NamedTuple):
    """What a training came to.

    Attributes:
        losses: of its iterations; the last may be no number.
        chance: the loss of a network that knows nothing.
        error: of a few validation images at its end, percent; None where it has lost its numbers.
    """

    losses: list[float]
    chance: float | None
    error: float | None


class _Recorder(Guard):
    """Lets everything go on that can."""

    def __init__(self) -> None:
        super().__init__(None)
        self.losses: list[float] = []

    def diverged(self, loss: float) -> bool:
        self.losses.append(loss)
        return not math.isfinite(loss)


@functools.cache
def _splits(problem: str) -> Splits:
    return PROBLEMS[problem].load()


def trained(run: Run) -> tuple[Run, Trained]:
    """Train, and return what it came to."""
    problem, splits = PROBLEMS[run.problem], _splits(run.problem)
    seed = SearchSettings(run.seed, run.iterations, 1).trial_seed(run.number)
    warnings.simplefilter("ignore", NoEffectWarning)
    trial = Trial(problem, sample(problem.space, run.seed, run.number), splits, seed=seed, stan=Stan(rate=1))
    trial.guard = recorder = _Recorder()
    lost, _ = trial.train(run.iterations, lambda: False, lambda iteration: None)
    few = splits.validation.take(0, ERROR_IMAGES)
    error = None if lost else error_percent(trial.model, few, splits.normaliser)
    return run, Trained(recorder.losses, problem.chance_loss(splits), error)


class Kept:
    """Finished trainings: one to a line of a JSON Lines file, [key, losses, chance, error]."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self._known = {key: Trained(*rest) for key, *rest in lines}

    def __contains__(self, run: Run) -> bool:
        return run.key in self._known

    def get(self, run: Run) -> Trained:
        """Return what a training came to."""
        return self._known[run.key]

    def put(self, run: Run, what: Trained) -> None:
        """Keep a training."""
        self._known[run.key] = what
        with self._file.open("a") as file:
            file.write(f"{json.dumps([run.key, *what])}\n")


def verdict(losses: Sequence[float], diverged: Callable[[float], bool]) -> int | None:
    """Return the iteration at which a guard ends a training, None where it does not."""
    return next((place for place, loss in enumerate(losses) if diverged(loss)), None)


def former(chance: float | None) -> Callable[[float], bool]:
    """Return the guard of before."""
    above = 0

    def diverged(loss: float) -> bool:
        nonlocal above
        above = above + 1 if chance is not None and loss > 10 * chance else 0
        return not math.isfinite(loss) or above >= 20

    return diverged


class Counts(NamedTuple):
    """What one guard does to the settings of a problem; see the head of this file."""

    iterations: int
    called: int
    falling: int
    learn: int


def counts(trainings: Sequence[Trained], guard: Callable[[float | None], Callable[[float], bool]]) -> Counts:
    """Count what a guard does to trainings; `guard` makes a new one for a chance loss."""
    iterations = called = falling = learn = 0
    for losses, chance, error in trainings:
        at = verdict(losses, guard(chance))
        iterations += len(losses) if at is None else at
        if at is None or error is None:
            continue
        called += 1
        before = losses[max(at + 1 - STRETCH, 0) : at + 1]
        falling += sum(losses[-STRETCH:]) / STRETCH < LESS * sum(before) / len(before)
        learn += error < LESS * 90
    return Counts(iterations, called, falling, learn)


def report(trainings: dict[str, list[Trained]]) -> str:
    """Return the table: a row for each problem, and one for all that are built in."""
    groups = {**trainings, "all built in": [each for name in BUILT_IN for each in trainings[name]]}
    rows = []
    for name, each in groups.items():
        before, now = counts(each, former), counts(each, lambda chance: Guard(chance).diverged)
        unguarded = sum(len(one.losses) for one in each)
        numbers = [len(each), unguarded, before.iterations, now.iterations]
        rows.append([name, *map(str, numbers), *(" / ".join(map(str, one[1:])) for one in (before, now))])
    told = "called / falling / learn, "
    return table(["problem", "settings", "unguarded", "before", "now", f"{told}before", f"{told}now"], rows)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=40, help="of each problem")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--raw-iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True)
    given = parser.parse_args()
    kept = Kept(given.keep)
    runs = [
        Run(name, given.seed, number, given.raw_iterations if name in RAW else given.iterations)
        for number in range(given.settings)
        for name in PROBLEMS
    ]
    with ProcessPoolExecutor(given.workers, get_context("spawn"), initializer=tune_process, initargs=(1,)) as pool:
        for run, what in pool.map(trained, [run for run in runs if run not in kept]):
            kept.put(run, what)
            print(f"{time.strftime('%H:%M:%S')} {run.key}: {len(what.losses)} losses", flush=True)
    print(report({name: [kept.get(run) for run in runs if run.problem == name] for name in PROBLEMS}))


if __name__ == "__main__":
    main()
