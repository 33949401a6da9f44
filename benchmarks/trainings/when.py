"""Whether early or late iterations can better be spared: CQ on CIFAR-10, and how far its fills are off meanwhile.

    python -m benchmarks.trainings.when --seeds 3 --workers 2

First, exact training: the relative error ||Y - fill(Y)|| / ||Y|| of each pattern in each layer, in the four quarters of
the training. Then trainings with one of each 2x2 block computed in all three convolutions, in the first half of the
iterations, in the second, in all or in none, the last fifth at a tenth of the rate, tested exactly. One thread each.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

from benchmarks.common.side_by_side import table
from stantune.errors import StanWarning
from stantune.images.problem.built_in import Splits, find
from stantune.images.solving.evaluation import error_percent
from stantune.images.solving.solver import MultiStep
from stantune.process.runtime import tune_process
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.stan.entries.entries import PLANE
from stantune.training.trial import Trial

# No pattern is within it, so that a training measures them all at its refreshes and computes every entry.
NEVER = 1e-9
REFRESH = 50  # iterations between two measurements
QUARTERS = 4
WHEN = ("never", "in the first half", "in the second half", "always")
Errors = Mapping[tuple[str, str], list[float]]


class Trained(NamedTuple):
    """What a training came to: test error in percent, and relative errors by (layer, pattern) in each quarter."""

    test_error: float
    relative: Errors


def stan_of(when: str, iterations: int) -> Stan:
    """Return what spares entries at that time."""
    half = iterations // 2
    if when == "never":
        return Stan(rate=0.25, tolerance=NEVER, period=REFRESH - 1)
    if when == "in the first half":
        return Stan(rate=0.25, period=None, tail=iterations - half, iterations=iterations)
    return Stan(rate=0.25, period=None, pretrain=half if when == "in the second half" else 0)


@functools.cache
def _splits() -> Splits:
    return find("cq").load(full=True)


def train(when: str, iterations: int, seed: int) -> Trained:
    """Train CQ, sparing entries at that time."""
    warnings.simplefilter("ignore", StanWarning)
    problem, splits = find("cq"), _splits()
    solver = replace(problem.solver, policy=MultiStep((iterations * 4 // 5,), 0.1))
    stan = stan_of(when, iterations)
    trial = Trial(replace(problem, solver=solver), {}, splits, seed=derive("train", seed), stan=stan)
    trial.train(iterations, lambda: False, lambda iteration: None)
    relative: dict[tuple[str, str], list[list[float]]] = {}
    assert trial.handle is not None
    names = {pattern: name for name, pattern in PLANE.items()}
    for choice in trial.handle.history:
        for pattern, error in choice.errors.items():
            quarters = relative.setdefault((choice.layer, names[pattern]), [[] for _ in range(QUARTERS)])
            quarters[choice.iteration * QUARTERS // iterations].append(error)
    means = {key: [statistics.fmean(errors) for errors in quarters] for key, quarters in relative.items()}
    return Trained(error_percent(trial.model, splits.test, splits.normaliser), means)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    cases = [(when, options.iterations, seed) for seed in range(options.seeds) for when in WHEN]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), initializer=tune_process, initargs=(1,)) as pool:
        trained = dict(zip(cases, pool.map(train, *zip(*cases, strict=True)), strict=True))
    by_when = {when: [trained[when, options.iterations, seed] for seed in range(options.seeds)] for when in WHEN}
    exact = by_when["never"]
    print(
        f"CQ, {options.iterations} iterations, {options.seeds} seeds; relative error of the fills in exact training\n"
    )
    quarters = [f"quarter {number + 1}" for number in range(QUARTERS)]
    rows = [
        (layer, pattern, *(f"{statistics.fmean(column):.3f}" for column in zip(*found, strict=True)))
        for layer, pattern in exact[0].relative
        for found in [[one.relative[layer, pattern] for one in exact]]
    ]
    print(table(("layer", "pattern", *quarters), rows))
    print("\ntest error in %, one of each 2x2 block computed in all convolutions\n")
    base = statistics.fmean(one.test_error for one in exact)
    seeds = [f"seed {seed}" for seed in range(options.seeds)]
    rows = []
    for when, found in by_when.items():
        mean = statistics.fmean(one.test_error for one in found)
        errors = (f"{one.test_error:.2f}" for one in found)
        rows.append((when, *errors, f"{mean:.2f}", f"{mean - base:+.2f}"))
    print(table(("entries are spared", *seeds, "mean", "above exact"), rows))


if __name__ == "__main__":
    main()
