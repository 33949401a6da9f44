"""Which layers to accelerate, and how much: CQ on CIFAR-10 in its full length, test errors by seed.

    python -m benchmarks.trainings.layers --seeds 3 --keep layers.json

Exact training and STAN under its default schedule, on one thread. Seconds are those of that thread's training, with
native kernels on both sides, and tell something on an idle machine only. What is in --keep is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.common.side_by_side import table
from stantune.images.problem.built_in import find
from stantune.images.solving.evaluation import error_percent
from stantune.process.runtime import tune_process
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.training.trial import Trial

WAYS: Mapping[str, Stan] = {
    "exact": Stan(rate=1),
    "1/2 in conv2": Stan(rate=0.5, layers=("conv2",)),
    "1/2 in conv1, conv2": Stan(rate=0.5, layers=("conv1", "conv2")),
    "1/2 in all": Stan(rate=0.5),
    "1/4 in conv2": Stan(rate=0.25, layers=("conv2",)),
    "1/4 in all": Stan(rate=0.25),
}


def train(stan: Stan, seed: int) -> tuple[float, float]:
    """Return the test error in percent and the seconds of a whole training."""
    problem = find("cq")
    splits = problem.load(full=True)
    own = derive("train", seed)
    settings = Stan(rate=stan.rate, period=9, layers=stan.layers, seed=own)
    trial = Trial(problem, {}, splits, seed=own, stan=settings)
    trial.train(problem.full_iterations or problem.iterations, lambda: False, lambda iteration: None)
    return error_percent(trial.model, splits.test, splits.normaliser), trial.cost.training_seconds


def main() -> None:
    """Train what --keep does not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a JSON file of finished trainings")
    options = parser.parse_args()
    tune_process(1)
    kept: dict[str, list[float]] = (
        json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    )
    for seed in range(options.seeds):
        for name in options.ways:
            if f"{name} / {seed}" not in kept:
                kept[f"{name} / {seed}"] = list(train(WAYS[name], seed))
                print(f"{name}, seed {seed}: {kept[f'{name} / {seed}'][0]:.2f} %", flush=True)
                if options.keep:
                    options.keep.write_text(json.dumps(kept, indent=2))
    rows = []
    exact = [kept[f"exact / {seed}"][0] for seed in range(options.seeds) if f"exact / {seed}" in kept]
    for name in options.ways:
        errors, seconds = zip(*(kept[f"{name} / {seed}"] for seed in range(options.seeds)), strict=True)
        above = statistics.fmean(errors) - statistics.fmean(exact) if exact else float("nan")
        cells = f"{statistics.fmean(errors):.2f}", f"{above:+.2f}", f"{statistics.fmean(seconds):.0f}"
        rows.append((name, *(f"{error:.2f}" for error in errors), *cells))
    print(f"\n{table(('entries', *(f'seed {seed}' for seed in range(options.seeds)), 'mean', 'above', 's'), rows)}")


if __name__ == "__main__":
    main()
