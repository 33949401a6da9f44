"""Plans tried on the learning curves of real trainings: mean regret against iterations spent. CPU seconds, no network.

    python -m benchmarks.stopping.curves LCBENCH [--seeds 30] [--model-seeds 3] [--minutes 30]  # adds to what is kept
    python -m benchmarks.stopping.curves LCBENCH --check     # tune() promotes the same trials
    python -m benchmarks.stopping.curves --table             # the tables in the docs

LCBENCH is a folder with LCBench (Zimmer, Lindauer, Hutter, 2021) as the surrogate network of YAHPO Gym (Pfisterer et
al., 2022): model.onnx, config_space.json and encoding.json. It needs onnxruntime.

The protocol was written down before anything was run; what was then left out for want of time the tables say.

- 34 tasks, R = 52 epochs, eta = 3, 30 seeds; what a setting comes to is its validation accuracy, what is compared its
  error in percent. Exactly, and with normal noise of 1.5 points on each result, drawn for seed, trial and rung.
- Ladder "r = 1" is the default: rungs at 1, 5, 17 and 52 epochs, of which the first says next to nothing of the last
  one in this surrogate. Ladder "r = 2" leaves it out: 5, 17 and 52.
- H is what Hyperband trains with all its brackets. Regret is measured when H/4, H/2, H and 2 H are spent: the best
  accuracy after 52 epochs of 10 000 settings drawn at random, less that of the setting that the search takes for its
  best then, without noise, in points. Its best is the one with the least error, as it was seen, of those trained to R.
  What training the winner once more takes counts nowhere.
- hyperband: its brackets in their order; when all are through, another Hyperband with fresh settings. wide: one
  bracket, with as many settings as the budget pays for. measured: brackets one after the other until the budget is
  spent, in one search. asha: with as many settings as the budget pays for. optuna: HyperbandPruner and TPESampler as
  they come, with reports where its rungs end; epochs of pruned trials count as they are trained.
- Samplers random, tpe and bohb under each of our plans, at H/2 and H; bohb under hyperband is BOHB. Models take time:
  they have noise, the ladder r = 1, and --model-seeds seeds.
- Our searches are made of `stantune.search.plan` and `propose`, by one worker, with a lag of 16; --check compares them
  with those of tune().
- Intervals: 95 %, bootstrap over the tasks (10 000 draws) of means over seeds; seeds are paired.
- Goal: at most half of Hyperband's iterations at equal mean regret. So of each plan the table has the budget at which
  its mean regret falls to that of one whole Hyperband with random settings (interpolated between budgets in the
  logarithm of the budget; ">2 H" where it does not), and the difference from that Hyperband at H/2: 0 or less is the
  goal. No constant of "measured" was fitted to these curves.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stopping.curves_results import BUDGETS, ETA, KEPT, LADDERS, NOISE, PLANS, Key, kept, table_of, whole
from benchmarks.stopping.curves_surrogate import INPUTS, MOST, Curves, R
from stantune.search.plan.coordinator import Coordinator
from stantune.search.plan.hyperband import plan, stops_of, trained_iterations, wide_plan
from stantune.search.plan.values import TrialRow
from stantune.search.propose.proposals import Proposals
from stantune.search.propose.sampling import optuna_quiet, to_distribution
from stantune.search.settings import SearchSettings

# Settings whose curves are computed at once.
AT_ONCE = 64
Errors = Callable[[Sequence[Mapping[str, Any]], Sequence[int]], "np.ndarray[Any, np.dtype[np.float64]]"]


class Seen:
    """What a search has seen: (iterations spent by then, trial, iterations of the trial, error) of each result."""

    def __init__(self) -> None:
        self.results: list[tuple[int, int, int, float]] = []
        self.spent = 0

    def add(self, number: int, start: int, stop: int, error: float) -> None:
        """Take a result."""
        self.spent += stop - start
        self.results.append((self.spent, number, stop, error))

    def best(self, budget: float) -> int | None:
        """Return the best trial of those trained to R when the budget is spent; None where there is none."""
        there = [(error, number) for spent, number, stop, error in self.results if stop == R and spent <= budget]
        return min(there)[1] if there else None


class World:
    """One task as a search with one seed meets it."""

    def __init__(
        self, curves: Curves, task: str, seed: int, noise: float, stops: Sequence[int], drawn: bool = False
    ) -> None:
        self.curves, self.task, self.seed, self.stops = curves, task, seed, tuple(stops)
        self._noise = noise * np.random.default_rng([seed, *stops]).standard_normal((MOST, len(stops)))
        self._true: list[Any] = curves.of_drawn(task, seed, self.stops) if drawn else []

    def error(self, number: int, params: Sequence[Mapping[str, Any]], stop: int) -> float:
        """Return the error of a trial as it is seen; `params` are those of all trials so far."""
        while len(self._true) <= number:
            self._true.extend(self.curves.errors(self.task, params[len(self._true) :][:AT_ONCE], self.stops))
        place = self.stops.index(stop)
        return float(self._true[number][place] + self._noise[number, place])

    def regret(self, number: int) -> float:
        """Return by how much a trial is worse than the best there is, after all epochs and without noise."""
        return float(self._true[number][-1]) - self.curves.best(self.task)


def searched(
    settings: SearchSettings, world: World, drawn: Sequence[Mapping[str, Any]] | None, until: float = math.inf
) -> tuple[Seen, list[TrialRow]]:
    """Run a search of ours by one worker, until so many iterations are spent.

    `drawn` are the settings of its trials where they look at no results; None asks the sampler.
    """
    run, seen, rows = Coordinator(settings.plan()), Seen(), list[TrialRow]()
    proposals = None if drawn is not None else Proposals(world.curves.space, settings)
    params: list[Mapping[str, Any]] = list(drawn or ())
    while seen.spent <= until and (jobs := run.ready_jobs(rows)):
        for job in jobs:
            if (job.bracket, job.stop) != (jobs[0].bracket, jobs[0].stop) and not run.asynchronous:
                break
            if job.number == len(rows):
                if proposals is not None:
                    if job.number >= proposals.begins(rows):
                        break
                    params.append(proposals.propose(job.number, rows))
                rows.append(TrialRow(job.number, job.bracket, params[job.number]))
            error = world.error(job.number, params, job.stop)
            row = rows[job.number]
            rows[job.number] = replace(row, errors={**row.errors, job.stop: error})
            seen.add(job.number, job.start, job.stop, error)
    return seen, rows


def settings_of(plan_name: str, sampler: str, least: int, seed: int, budget: float) -> SearchSettings:
    """Return the search that spends a budget in iterations, or a little more."""
    common = SearchSettings(seed, R, least, ETA, sampler=sampler)
    if plan_name == "measured":
        first = trained_iterations(plan(R, least, ETA)[:1]).continued
        return replace(common, plan_name="measured", brackets=math.ceil(budget / first))
    if plan_name in ("wide", "asha"):
        trials = trials_for(least, budget)
        return replace(common, trials=trials, **{"mode": "async"} if plan_name == "asha" else {"plan_name": "wide"})
    return common


@cache
def trials_for(least: int, budget: float) -> int:
    """Return how many settings one wide bracket tries with a budget; 0 where it is too small for one."""
    trials = ETA ** (len(plan(R, least, ETA)) - 1)
    if trained_iterations([wide_plan(R, least, ETA, trials)]).continued > budget:
        return 0
    while trained_iterations([wide_plan(R, least, ETA, trials + 1)]).continued <= budget:
        trials += 1
    return trials


def regrets(
    curves: Curves,
    task: str,
    plan_name: str,
    sampler: str,
    least: int,
    noise: float,
    seed: int,
    budgets: Sequence[float],
) -> list[float | None]:
    """Return the regret when each budget, in shares of H, is spent."""
    stops = stops_of(plan(R, least, ETA))
    limits = [share * whole(least) for share in budgets]

    def search(budget: float, again: int = 0) -> tuple[Seen, World]:
        world = World(curves, task, seed + 1000 * again, noise, stops, sampler == "random")
        settings = settings_of(plan_name, sampler, least, world.seed, budget)
        drawn = curves.drawn(world.seed) if sampler == "random" else None
        return searched(settings, world, drawn, budget)[0], world

    if plan_name in ("wide", "asha"):
        found: list[float | None] = []
        for limit in limits:
            if not trials_for(least, limit):
                found.append(None)
                continue
            seen, world = search(limit)
            # ASHA may have a little left to do.
            best = seen.best(math.inf)
            found.append(None if best is None else world.regret(best))
        return found
    runs, left = [], max(limits)
    while left > 0:
        runs.append(search(left, len(runs)))
        left -= runs[-1][0].spent
    return [_best_of(runs, limit) for limit in limits]


def _best_of(runs: Sequence[tuple[Seen, World]], limit: float) -> float | None:
    """Return the regret of the best of several searches one after the other, by the errors that were seen."""
    bests = []
    for seen, world in runs:
        there = [(error, number) for spent, number, stop, error in seen.results if stop == R and spent <= limit]
        if there:
            error, number = min(there)
            bests.append((error, world.regret(number)))
        limit -= seen.spent
    return min(bests)[1] if bests else None


def optuna_regrets(
    curves: Curves, task: str, least: int, noise: float, seed: int, budgets: Sequence[float]
) -> list[float | None]:
    """Return the same of Optuna's HyperbandPruner around its TPESampler."""
    import optuna

    stops = [least * ETA**power for power in range(9) if least * ETA**power < R] + [R]
    world, params, seen = World(curves, task, seed, noise, stops), list[Mapping[str, Any]](), Seen()
    limits = [share * whole(least) for share in budgets]

    def objective(trial: optuna.Trial) -> float:
        for name in INPUTS:
            trial._suggest(name, to_distribution(curves.space[name]))
        params.append(dict(trial.params))
        before, error = 0, math.nan
        for stop in stops:
            error = world.error(trial.number, params, stop)
            seen.add(trial.number, before, stop, error)
            before = stop
            trial.report(error, stop)
            if trial.should_prune():
                raise optuna.TrialPruned
        return error

    with optuna_quiet():
        pruner = optuna.pruners.HyperbandPruner(min_resource=least, max_resource=R, reduction_factor=ETA)
        study = optuna.create_study(
            study_name=f"{task}, {seed}", sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner
        )
        while seen.spent < max(limits) and len(params) < MOST:
            study.optimize(objective, n_trials=1)
    bests = [seen.best(limit) for limit in limits]
    return [None if best is None else world.regret(best) for best in bests]


def todo(seeds: int, model_seeds: int) -> Iterator[Key]:
    """Go through all that is to be run: ladder, noise, plan, sampler, seed; seed by seed, and random settings first."""
    for seed in range(seeds):
        for ladder in LADDERS:
            for noise in NOISE:
                for name in PLANS:
                    yield ladder, noise, name, "random", seed
    for seed in range(model_seeds):
        for name in PLANS:
            for sampler in ("tpe", "bohb"):
                yield "r = 1", NOISE[-1], name, sampler, seed
        yield "r = 1", NOISE[-1], "optuna", "tpe", seed


def run_all(folder: Path, seeds: int, model_seeds: int, minutes: float) -> None:
    """Run what is not there yet, and add a line for each to the file."""
    curves, there, began = Curves(folder), kept(), time.monotonic()
    for ladder, noise, name, sampler, seed in todo(seeds, model_seeds):
        if (ladder, noise, name, sampler, seed) in there:
            continue
        if time.monotonic() - began > 60 * minutes:
            print("out of time; the same command goes on")
            return
        budgets = BUDGETS if sampler == "random" else BUDGETS[1:3]
        found = []
        for task in curves.tasks:
            if name == "optuna":
                each = optuna_regrets(curves, task, LADDERS[ladder], noise, seed, budgets)
            else:
                each = regrets(curves, task, name, sampler, LADDERS[ladder], noise, seed, budgets)
            found.append([None if regret is None else round(regret, 2) for regret in each])
        line = {"ladder": ladder, "noise": noise, "plan": name, "sampler": sampler, "seed": seed, "regrets": found}
        KEPT.parent.mkdir(exist_ok=True)
        with KEPT.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def check(folder: Path) -> None:
    """See that tune() comes to the very trials, promotions and errors that are counted here, without noise."""
    import stantune

    curves = Curves(folder)
    task = curves.tasks[0]
    for seed in (0, 1):
        for name, sampler in (
            ("hyperband", "random"),
            ("wide", "random"),
            ("measured", "random"),
            ("asha", "random"),
            ("measured", "tpe"),
        ):
            settings = settings_of(name, sampler, 1, seed, whole(1))
            world = World(curves, task, seed, 0.0, stops_of(plan(R, 1, ETA)))
            _, rows = searched(settings, world, None)

            def train(run: stantune.Run) -> dict[str, float]:
                for _ in run.steps():
                    pass
                return {"error": float(curves.errors(task, [run.params], [run.done])[0, 0])}

            with tempfile.TemporaryDirectory() as place:
                found = stantune.tune(
                    train,
                    curves.space,
                    minimize="error",
                    max_resource=R,
                    min_resource=1,
                    seed=seed,
                    sampler=sampler,
                    plan=settings.plan_name,
                    mode=settings.mode,
                    trials=settings.trials,
                    brackets=settings.brackets,
                    out=Path(place) / "out",
                )
            same = [(row.params, row.bracket, set(row.errors)) for row in found.state.rows] == [
                (row.params, row.bracket, set(row.errors)) for row in rows
            ]
            print(f"{name}, {sampler}, seed {seed}: {len(rows)} trials, {'the same' if same else 'OTHERS'}", flush=True)
            if not same:
                raise SystemExit(1)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="with model.onnx")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--model-seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        tables = [table_of(kept(), ladder, noise, False) for ladder in LADDERS for noise in NOISE]
        print("\n".join([*tables, table_of(kept(), "r = 1", NOISE[-1], True)]))
        return
    if options.folder is None:
        parser.error("name the folder of LCBench")
    if options.check:
        check(options.folder)
        return
    run_all(options.folder, options.seeds, options.model_seeds, options.minutes)


if __name__ == "__main__":
    main()
