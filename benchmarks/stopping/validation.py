"""Whether a part of the validation set orders settings as all of it does: settings of a search, rung by rung.

    python -m benchmarks.stopping.validation --problem cq --settings 24 --seeds 3
    python -m benchmarks.stopping.validation --problem cq --times 400 1000 4000

The settings of seed s are trials 0, 1, … of `stantune search PROBLEM --seed s --max-iterations ITERATIONS`, trained
exactly, on one thread, through all its rungs but the top one, which is always judged by all. At each rung the same
weights are judged by parts of the validation set, each of which holds those before it, as with `--validation by-rung`.

For each rung and size: Spearman's correlation of the order by the part with that by all, over the settings that got
below 0.9 of the error of guessing there or at the first rung (the others are dropped by any part); and what is lost by
choosing by the part: how far the third that goes on is above the best third, in the mean of their errors by all at the
same rung, in points. Settings of all seeds together: they are judged by the same samples.

What is in --keep is not trained again; --table prints what is there and trains nothing.

--times says for each R which share of a whole Hyperband's time, its final training included, goes into evaluation, if
no trial diverges: an exact iteration and an evaluation are timed here (the least thread time of several), all else is
arithmetic. Trials are supposed to train exactly, by native kernels; where STAN spares work evaluation's share is
larger.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.kept import RESULTS
from benchmarks.common.side_by_side import table
from benchmarks.stopping.ranking import ETA, spearman, stops_of
from stantune.errors import NoEffectWarning
from stantune.images.data import in_order
from stantune.images.data.parts import part_of, samples_of
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.images.solving.evaluation import EVALUATION_BATCH, error_percent
from stantune.process.runtime import tune_process
from stantune.search.plan.hyperband import plan as plan_of
from stantune.search.plan.hyperband import trained_iterations
from stantune.search.plan.validation import share_at
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.stan.config import Stan
from stantune.stan.layers.fusion import evaluated_natively
from stantune.training.trial import Trial

SIZES = (250, 500, 1000, 2000, 3334, 5000)
# Of the error of guessing: who is above has not begun to learn.
LEARNING = 0.9
TIMED = 40


def train(problem: Problem, splits: Splits, iterations: int, seed: int, number: int) -> dict[int, dict[int, float]]:
    """Train one setting; return its errors {rung: {samples: error in percent}}, as far as it does not diverge."""
    settings = SearchSettings(seed, iterations, default_min_resource(iterations, ETA), ETA)
    own = settings.trial_seed(number)
    trial = Trial(problem, sample(problem.space, seed, number), splits, seed=own, stan=Stan(rate=1, seed=own))
    errors: dict[int, dict[int, float]] = {}
    for stop in stops_of(iterations)[:-1]:
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
    for stop in stops_of(runs[0]["iterations"])[:-1]:
        there: list[dict[int, float]] = []
        for errors in (run["errors"] for run in runs if str(stop) in run["errors"]):
            first, here = next(iter(errors.values())), errors[str(stop)]
            if min(max(first.values()), max(here.values())) < LEARNING * guessing:
                there.append({int(size): error for size, error in here.items()})
        sizes = sorted(there[0])
        for size in sizes[:-1]:
            part, whole = [one[size] for one in there], [one[sizes[-1]] for one in there]
            rows.append(
                (str(stop), str(size), str(len(there)), f"{spearman(part, whole):.3f}", f"{regret(part, whole):.2f}")
            )
    return table(("rung", "samples", "settings", "Spearman", "regret, points"), rows)


def share_of_time(problem: Problem, splits: Splits, lengths: list[int]) -> str:
    """Return a table of evaluation's share, by all of the validation set and by rung."""
    trial = Trial(problem, {}, splits, seed=0, stan=Stan(rate=1))
    part = part_of(splits.validation, 1000, problem.hold_out_seed)
    iterations, evaluations = [], []
    for number in range(TIMED):
        began = time.thread_time()
        trial.train(4 * (number + 1), lambda: False, lambda iteration: None)
        iterations.append((time.thread_time() - began) / 4)
        began = time.thread_time()
        error_percent(trial.model, part, splits.normaliser)
        evaluations.append((time.thread_time() - began) / 1000)
    iteration, sample, whole, rows = min(iterations), min(evaluations), len(splits.validation), []
    for length in lengths:
        plan = plan_of(length, default_min_resource(length, ETA), ETA)
        training = iteration * (trained_iterations(plan).continued + length)
        rungs = [(rung.iterations, rung.trials) for bracket in plan for rung in bracket.rungs]
        final = len(stops_of(length)) * whole + len(splits.test)
        shares = []
        for by_rung in (False, True):
            samples = final + sum(
                trials * (samples_of(share_at(stop, length), whole, splits.classes) if by_rung else whole)
                for stop, trials in rungs
            )
            shares.append(sample * samples / (sample * samples + training))
        rows.append((str(length), f"{shares[0]:.1%}", f"{shares[1]:.1%}"))
    told = (
        f"{problem.name}: an iteration {1e3 * iteration:.2f} ms, an evaluation of 1 000 samples {1e6 * sample:.1f} ms"
    )
    return f"{told}\n\n{table(('R', 'by all', 'by rung'), rows)}"


def main() -> None:
    """Train what --keep does not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="cq", help="lenet, cq, …")
    parser.add_argument("--iterations", type=int, default=400, help="R")
    parser.add_argument("--settings", type=int, default=40, help="of each seed, those that diverge among them")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, …")
    parser.add_argument(
        "--times", type=int, nargs="+", metavar="R", help="train no settings, and tell what evaluation takes"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=RESULTS / "validation.jsonl",
        help="a file of a line of JSON for each finished training",
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore", NoEffectWarning)
    tune_process(1)
    problem = find(options.problem)
    splits = problem.load()
    assert splits.classes is not None, "an error of guessing is one of classes"
    if options.times:
        print(share_of_time(problem, splits, options.times))
        return
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
