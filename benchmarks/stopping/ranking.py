"""Whether STAN keeps settings in order: settings of a search trained exactly and at several rates, rung by rung.

    python -m benchmarks.stopping.ranking --problem cq --settings 64 --seeds 5 --rates 0.5 0.25 stan:auto --workers 2 \\
        --keep ranking.json

The settings of seed s are trials 0, 1, … of `stantune search PROBLEM --seed s --max-iterations ITERATIONS`: values,
seeds and rungs are that search's (eta = 3, at most five brackets), and so is the error, that of the validation images.
Every setting is trained through all rungs, though, whatever its rank, on one thread. "exact" is native training with
all entries; other ways are a rate, as `--rate` takes it, or stan:RATES, as `--accelerate` does: "0.5/9" is 1/2 with
`--period 9`, "0.5/9@*" that in all convolutions (`--layers`).

Settings that diverge end at once. Those whose exact training has at R/9 iterations not got below 0.9 of the error of
guessing (--learning) do not count as learning: they are trained no further and at no other rate, since no search would
choose them. The orders of the others are compared. A setting that diverges under STAN ranks last there.

What is in --keep is not trained again, so that the same command goes on; more seeds, settings and rates may be added.
Times are of processes side by side, and tell something on an idle machine only.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.side_by_side import table
from benchmarks.common.ways import Searched, name_of, with_way
from stantune.errors import NoEffectWarning
from stantune.files import write_whole
from stantune.images.problem.built_in import Splits, find
from stantune.images.solving.evaluation import error_percent
from stantune.process.runtime import tune_process
from stantune.search.plan import fidelity
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.training.trial import Trial

ETA = 3
EXACT = "exact"
# Settings that have not begun to learn so many rungs below the top are given up.
GIVEN_UP_BELOW_TOP = 2
# Brackets of settings that learn, to tell what successive halving chooses.
DRAWS = 1000


@dataclass(frozen=True)
class Run:
    """One training: trial `number` of the search with this seed, in one of the ways."""

    problem: str
    iterations: int
    seed: int
    number: int
    way: str

    @property
    def key(self) -> str:
        """Its name in the file of finished trainings."""
        way = EXACT if self.way == EXACT else name_of(self.searched, self.way)
        return f"{self.problem} / {self.iterations} / {self.seed} / {self.number} / {way}"

    @property
    def searched(self) -> Searched:
        """What is searched, and how, with what STAN does in this way."""
        settings = SearchSettings(self.seed, self.iterations, default_min_resource(self.iterations, ETA), ETA)
        return with_way(settings, self.problem, "1" if self.way == EXACT else self.way)


class Trained(NamedTuple):
    """What a training came to: errors in percent by rung, as far as it got, and its seconds by rung, from its start."""

    errors: dict[int, float]
    seconds: dict[int, float]
    diverged_at: int | None


def stops_of(iterations: int) -> tuple[int, ...]:
    """Return the iterations of the rungs."""
    return fidelity.rungs(iterations, default_min_resource(iterations, ETA), ETA)


@functools.cache
def _splits(problem: str) -> Splits:
    return find(problem).load()


def train(run: Run, learning: float, device: str) -> Trained:
    """Train through all rungs, or until it diverges or is given up."""
    warnings.simplefilter("ignore", NoEffectWarning)
    (objective, settings), splits = run.searched, _splits(run.problem)
    problem, stan, seed = objective.problem, objective.stan, settings.trial_seed(run.number)
    assert stan is not None
    assert splits.classes is not None
    trial = Trial(
        problem,
        sample(problem.space, run.seed, run.number),
        splits,
        seed=seed,
        stan=replace(stan, seed=seed, rate=settings.rates_from() or stan.rate),
        device=device,
    )
    stops = stops_of(run.iterations)
    errors: dict[int, float] = {}
    seconds: dict[int, float] = {}
    for stop in stops:
        diverged, _ = trial.train(stop, lambda: False, lambda iteration: None)
        if diverged:
            return Trained(errors, seconds, trial.iteration)
        seconds[stop] = trial.cost.exact_seconds + trial.cost.reduced_seconds
        errors[stop] = error_percent(trial.model, splits.validation, splits.normaliser, device)
        given_up = run.way == EXACT and stop == stops[max(0, len(stops) - 1 - GIVEN_UP_BELOW_TOP)]
        if given_up and errors[stop] >= learning * 100 * (1 - 1 / splits.classes):
            break
    return Trained(errors, seconds, None)


class Kept:
    """Finished trainings, in a JSON file where there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._plain: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}

    def __contains__(self, run: Run) -> bool:
        return run.key in self._plain

    def get(self, run: Run) -> Trained | None:
        """Return what the training came to, None where it is not done."""
        if run.key not in self._plain:
            return None
        errors, seconds, diverged_at = self._plain[run.key]
        return Trained(
            {int(stop): error for stop, error in errors.items()},
            {int(stop): value for stop, value in seconds.items()},
            diverged_at,
        )

    def put(self, run: Run, trained: Trained) -> None:
        """Keep it."""
        self._plain[run.key] = list(trained)
        if self._file:
            write_whole(self._file, f"{json.dumps(self._plain, indent=1)}\n".encode())


def compute(runs: Sequence[Run], ways: Sequence[str], kept: Kept, workers: int, learning: float, device: str) -> None:
    """Do the exact trainings `runs` that are missing, and those in the other ways of the settings that learn."""
    # The last is begun first: what a setting that learns is still to be trained, before the next setting.
    todo = list(reversed(runs))
    running: dict[Future[Trained], Run] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=tune_process, initargs=(1,)) as pool:
        while todo or running:
            while todo and len(running) < workers:
                run = todo.pop()
                if run not in kept:
                    running[pool.submit(train, run, learning, device)] = run
                elif run.way == EXACT:
                    todo += _others(run, ways, kept)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run, trained = running.pop(future), future.result()
                kept.put(run, trained)
                end = "diverged" if trained.diverged_at is not None else f"{list(trained.errors.values())[-1]:.2f} %"
                print(f"{time.strftime('%H:%M:%S')} {run.key}: {end}", flush=True)
                if run.way == EXACT:
                    todo += _others(run, ways, kept)


def _others(run: Run, ways: Sequence[str], kept: Kept) -> list[Run]:
    """Return what else is to be done of a setting that was trained exactly."""
    exact = kept.get(run)
    learns = exact is not None and run.iterations in exact.errors
    return [replace(run, way=way) for way in reversed(ways)] if learns else []


def ranks(values: Sequence[float]) -> list[float]:
    """Return the places in ascending order, from 1; equal values share the mean of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation; nan for fewer than two values or where all are equal."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return math.nan
    return statistics.correlation(ranks(one), ranks(other))


def halving(errors: Mapping[int, Mapping[int, float]], stops: Sequence[int]) -> int:
    """Return whom successive halving chooses: of {number: {iterations: error}} one of eta goes on from each rung."""
    going_on = sorted(errors)
    for stop in stops:
        going_on.sort(key=lambda number: (errors[number].get(stop, math.inf), number))
        if stop != stops[-1]:
            del going_on[max(1, len(going_on) // ETA) :]
    return going_on[0]


def regret(errors: Sequence[float], top: Sequence[float], finalists: int = 1) -> float:
    """Return how far the best of so many settings with the lowest errors is, by its error in `top`, above the best."""
    order = sorted(range(len(errors)), key=errors.__getitem__)
    return min(top[place] for place in order[:finalists]) - min(top)


class Line(NamedTuple):
    """What comes of one way at one rung, a value for each seed.

    Attributes:
        same_rung: rank correlation with the exact errors at the same rung.
        top: rank correlation with the exact errors at R.
        regret: points of exact error at R of whoever is the best here, above those of whoever is the best at R.
        of_two: the same of the better one of the best two.
        above: median over the settings of the error above the exact one at the same rung.
        faster: how many times faster the settings were trained up to this rung, all together.
    """

    same_rung: list[float]
    top: list[float]
    regret: list[float]
    of_two: list[float]
    above: list[float]
    faster: list[float]


def lines_of(
    trained: Mapping[int, Mapping[str, Mapping[int, Trained]]], ways: Sequence[str], stops: Sequence[int]
) -> dict[tuple[str, int], Line]:
    """Compare the ways with exact training: {seed: {way: {number: what it came to}}} of settings that learn."""
    lines: dict[tuple[str, int], Line] = {}
    for way in (EXACT, *ways):
        for stop in stops:
            line = lines[way, stop] = Line([], [], [], [], [], [])
            for by_way in trained.values():
                exact, here = by_way[EXACT], by_way[way]
                numbers = sorted(here)
                if not numbers:
                    continue
                errors = [here[number].errors.get(stop, math.inf) for number in numbers]
                same = [exact[number].errors[stop] for number in numbers]
                top = [exact[number].errors[stops[-1]] for number in numbers]
                line.same_rung.append(spearman(errors, same))
                line.top.append(spearman(errors, top))
                line.regret.append(regret(errors, top))
                line.of_two.append(regret(errors, top, finalists=2))
                line.above.append(statistics.median(a - b for a, b in zip(errors, same, strict=True)))
                both = [number for number in numbers if stop in here[number].seconds]
                mine = sum(here[number].seconds[stop] for number in both)
                line.faster.append(sum(exact[number].seconds[stop] for number in both) / mine if mine else math.nan)
    return lines


def halving_regrets(
    trained: Mapping[int, Mapping[str, Mapping[int, Trained]]], way: str, stops: Sequence[int]
) -> list[float]:
    """Return, of each seed, the points of exact error at R of whom successive halving chooses, above the best's.

    The mean over brackets drawn from the settings that learn, each of as many as a bracket with all rungs needs (or of
    all, where they are fewer), since what one bracket chooses is mostly chance.
    """
    regrets = []
    for by_way in trained.values():
        numbers = sorted(by_way[way])
        if not numbers:
            continue
        draws, size = random.Random(0), min(len(numbers), ETA ** (len(stops) - 1))
        top = {number: by_way[EXACT][number].errors[stops[-1]] for number in numbers}
        above = []
        for _ in range(DRAWS):
            bracket = draws.sample(numbers, size)
            chosen = halving({number: by_way[way][number].errors for number in bracket}, stops)
            above.append(top[chosen] - min(top[number] for number in bracket))
        regrets.append(statistics.fmean(above))
    return regrets


def report(kept: Kept, runs: Sequence[Run], ways: Sequence[str], learning: float) -> str:
    """Return what the finished trainings come to, as Markdown."""
    stops = stops_of(runs[0].iterations)
    trained: dict[int, dict[str, dict[int, Trained]]] = {}
    counts = {"learn": 0, "diverged": 0, "do not learn": 0}
    for run in runs:
        exact = kept.get(run)
        if exact is None:
            continue
        by_way = trained.setdefault(run.seed, {way: {} for way in (EXACT, *ways)})
        learns = stops[-1] in exact.errors
        counts["learn" if learns else "do not learn" if exact.diverged_at is None else "diverged"] += 1
        found = {way: kept.get(replace(run, way=way)) for way in (EXACT, *ways)} if learns else {}
        if found and None not in found.values():
            for way, what in found.items():
                assert what is not None
                by_way[way][run.number] = what
    lines = lines_of(trained, ways, stops)
    rows = [
        (
            way,
            str(stop),
            _spread(line.same_rung),
            _spread(line.top),
            _mean(line.regret, ".2f"),
            f"{max(line.regret, default=math.nan):.2f}",
            _mean(line.above, "+.2f"),
            _mean(line.faster, ".2f"),
        )
        for (way, stop), line in lines.items()
    ]
    columns = (
        "rate",
        "rung",
        "Spearman, same rung",
        "Spearman, at R",
        "regret",
        "worst",
        "error above",
        "times faster",
    )
    chosen = [
        (
            way,
            *(
                cell
                for regrets in (
                    lines[way, stops[-1]].regret,
                    lines[way, stops[-1]].of_two,
                    halving_regrets(trained, way, stops),
                )
                for cell in (_mean(regrets, ".2f"), f"{max(regrets, default=math.nan):.2f}")
            ),
        )
        for way in (EXACT, *ways)
    ]
    chosen_by = ("regret at R", "of two finalists", "of successive halving")
    names = ("rate", *(name for column in chosen_by for name in (column, "worst")))
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return (
        f"{runs[0].problem}, R = {stops[-1]}, {len(trained)} seeds, {sum(counts.values())} settings: {told} "
        f"(below {learning:g} of the error of guessing)\n\n{table(columns, rows)}\n\n{table(names, chosen)}"
    )


def _mean(values: Sequence[float], form: str) -> str:
    there = [value for value in values if not math.isnan(value)]
    return format(statistics.fmean(there), form) if there else "–"


def _spread(values: Sequence[float]) -> str:
    """Return the mean and the spread of the seeds, of which some may have had too few settings."""
    there = [value for value in values if not math.isnan(value)]
    return f"{_mean(there, '.2f')} ± {statistics.stdev(there):.2f}" if len(there) > 1 else _mean(there, ".2f")


def main() -> None:
    """Train what --keep does not hold yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="cq", help="lenet, cq, …")
    parser.add_argument("--settings", type=int, default=64, help="of each seed, those that diverge among them")
    parser.add_argument("--iterations", type=int, help="R (default: the problem's own number)")
    parser.add_argument("--rates", nargs="*", default=["0.5", "0.25", "stan:auto"], metavar="WAY", help="as above")
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, …")
    parser.add_argument("--workers", type=int, default=1, help="processes, each of one thread")
    parser.add_argument("--learning", type=float, default=0.9, help="share of the error of guessing")
    parser.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    parser.add_argument("--keep", type=Path, help="a JSON file of finished trainings")
    options = parser.parse_args()
    iterations = options.iterations or find(options.problem).iterations
    runs = [
        Run(options.problem, iterations, seed, number, EXACT)
        for seed in range(options.seeds)
        for number in range(options.settings)
    ]
    try:
        for way in options.rates:
            objective, settings = replace(runs[0], way=way).searched
            settings.check(objective)
    except ValueError as error:
        parser.error(str(error))
    kept = Kept(options.keep)
    compute(runs, options.rates, kept, options.workers, options.learning, options.device)
    print(f"\n{report(kept, runs, options.rates, options.learning)}")


if __name__ == "__main__":
    main()
