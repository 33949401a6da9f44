"""Whether a part of the validation set orders settings as all of it does: settings of a search, rung by rung.

    python benchmarks/validation.py --problem cq --settings 24 --seeds 3 --keep benchmarks/results/validation.jsonl

The settings of seed s are trials 0, 1, … of `stantune search PROBLEM --seed s --max-iterations ITERATIONS`, trained
exactly through all its rungs, on one thread. At each rung the same weights are judged by parts of the validation set,
each of which holds those before it, as with `--validation by-rung`.

For each rung and size: Spearman's correlation of the order by the part with that by all, over the settings that got
below 0.9 of the error of guessing at the first rung (the others are dropped by any part); and what is lost by choosing
by the part, in points of the error by all, at the same rung, of the third that goes on: the mean of the best three by
the part, or a third of them, above that of the best by all. Means and the worst over the seeds.

What is in --keep is not trained again; --table prints what is there and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from ranking import ETA, spearman, stops_of
from side_by_side import table
from torch import Tensor, nn

from stantune.errors import NoEffectWarning
from stantune.images.data import in_order
from stantune.images.data.parts import part_of
from stantune.images.evaluation import EVALUATION_BATCH
from stantune.images.problems import Problem, Splits, find
from stantune.runtime import tune_process
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.stan.config import Stan
from stantune.stan.fusion import evaluated_natively
from stantune.training.trial import Trial

SIZES = (250, 500, 1000, 2000, 3334, 5000)
# Of the error of guessing: who is above has not begun to learn.
LEARNING = 0.9


def train(problem: Problem, splits: Splits, iterations: int, seed: int, number: int) -> dict[int, dict[int, float]]:
    """Train one setting; return its errors {rung: {samples: error in percent}}, as far as it does not diverge."""
    settings = SearchSettings(seed, iterations, default_min_resource(iterations, ETA), ETA)
    own = settings.trial_seed(number)
    trial = Trial(problem, sample(problem.space, seed, number), splits, seed=own, stan=Stan(rate=1, seed=own))
    errors: dict[int, dict[int, float]] = {}
    for stop in stops_of(iterations):
        diverged, _ = trial.train(stop, lambda: False, lambda iteration: None)
        if diverged:
            break
        wrong = _wrong(trial.model, splits)
        errors[stop] = {
            count: 100 * float(wrong[places].double().mean()) for count, places in _parts(problem, splits).items()
        }
    return errors


def _wrong(model: nn.Module, splits: Splits) -> Tensor:
    """Return which validation samples the network does not know, (n,) bool."""
    model.eval()
    with torch.inference_mode(), evaluated_natively(model):
        batches = in_order(splits.validation, EVALUATION_BATCH, splits.normaliser)
        wrong = [model(batch.inputs).argmax(1) != batch.targets for batch in batches]
    model.train()
    return torch.cat(wrong)


def _parts(problem: Problem, splits: Splits) -> dict[int, Tensor]:
    """Return where the samples of each part stand among all, {samples: places (samples,) int64}."""
    whole = splits.validation
    counts = [*(size for size in SIZES if size < len(whole)), len(whole)]
    parts = {count: part_of(whole, count, problem.hold_out_seed) for count in counts}
    return {count: torch.isin(whole.ids, part.ids).nonzero().squeeze(1) for count, part in parts.items()}


def regret(part: list[float], whole: list[float]) -> float:
    """Return how far the third that goes on by the part is above the best third, in the mean of their errors by all."""
    kept = max(1, len(part) // ETA)
    chosen = sorted(range(len(part)), key=lambda place: (part[place], place))[:kept]
    return statistics.fmean(whole[place] for place in chosen) - statistics.fmean(sorted(whole)[:kept])


def report(runs: list[dict[str, Any]], guessing: float) -> str:
    """Return the table of what was trained."""
    rows = []
    stops = sorted({int(stop) for run in runs for stop in run["errors"]})
    for stop in stops:
        by_seed: dict[int, list[dict[int, float]]] = {}
        for run in runs:
            found = run["errors"]
            if str(stop) not in found:
                continue
            first = next(iter(found.values()))
            if min(max(first.values()), max(found[str(stop)].values())) < LEARNING * guessing:
                by_seed.setdefault(run["seed"], []).append({int(size): e for size, e in found[str(stop)].items()})
        whole = max(next(iter(by_seed.values()))[0])
        for size in sorted(next(iter(by_seed.values()))[0])[:-1]:
            pairs = [([one[size] for one in each], [one[whole] for one in each]) for each in by_seed.values()]
            agreement = [value for part, all_ in pairs if not math.isnan(value := spearman(part, all_))]
            lost = [regret(part, all_) for part, all_ in pairs]
            rows.append(
                (
                    str(stop),
                    str(size),
                    str(sum(len(part) for part, _ in pairs)),
                    f"{statistics.fmean(agreement):.3f}",
                    f"{min(agreement):.3f}",
                    f"{statistics.fmean(lost):.2f}",
                    f"{max(lost):.2f}",
                )
            )
    columns = ("rung", "samples", "settings", "Spearman", "least", "regret, points", "worst")
    return table(columns, rows)


def main() -> None:
    """Train what --keep does not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="cq", help="lenet, cq, …")
    parser.add_argument("--iterations", type=int, default=400, help="R")
    parser.add_argument("--settings", type=int, default=40, help="of each seed, those that diverge among them")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, …")
    parser.add_argument("--keep", type=Path, required=True, help="a file of a line of JSON for each finished training")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore", NoEffectWarning)
    tune_process(1)
    problem = find(options.problem)
    splits = problem.load()
    assert splits.classes is not None, "an error of guessing is one of classes"
    lines = options.keep.read_text().splitlines() if options.keep.exists() else []
    runs = [
        run
        for run in map(json.loads, lines)
        if (run["problem"], run["iterations"]) == (problem.name, options.iterations)
    ]
    done = {(run["seed"], run["number"]) for run in runs}
    for number in [] if options.table else range(options.settings):
        for seed in range(options.seeds):
            if (seed, number) not in done:
                errors = train(problem, splits, options.iterations, seed, number)
                run = {"problem": problem.name, "iterations": options.iterations, "seed": seed, "number": number}
                line = json.dumps(run | {"errors": errors})
                with options.keep.open("a") as file:
                    file.write(f"{line}\n")
                runs.append(json.loads(line))
    print(report(runs, 100 * (1 - 1 / splits.classes)))


if __name__ == "__main__":
    main()
