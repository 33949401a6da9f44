"""Which search finds how good a setting how fast: Optuna's Hyperband around plain PyTorch, ours exact, ours with STAN.

    python benchmarks/time_to_quality.py --problem cq --seeds 5 --keep quality.json --table cq.md --plot cq.png

Sides, in this order for each seed, so that whatever changes on the machine meets all of them:

- `exact`: `stantune search PROBLEM --accelerate none`, all of Hyperband's brackets once (eta = 3, at most five
  brackets); trials are trained by PyTorch as it is.
- `optuna`: Optuna's HyperbandPruner around a plain PyTorch loop, as Optuna's documentation has it (default sampler TPE,
  min_resource = r, max_resource = R, an error reported every r iterations), for as long as `exact` took with that seed.
- `native`: `--accelerate stan --rate 1`, all entries computed by our kernels. Not among the default sides.
- `stan`: `--accelerate stan`; `stan:auto`, `stan:0.25,0.5,1` and the like: as `--accelerate` takes them.

All have the same space, data, batches, learning-rate course, error (of the 10 000 validation images) and number of
workers, processes of one thread each. Optuna's are processes on one SQLite study, as its documentation recommends for
several cores: threads (n_jobs=2) would share the interpreter's lock. Its loop is stock PyTorch in its best setting:
channels_last memory, fused optimizer, an allocator that keeps its buffers, denormals flushed, images gathered in
memory; it stops where the loss is no number. --reports rungs has it evaluate only where the pruner decides.

The clock starts before the processes do. A point of a curve is the lowest validation error of any evaluation so far, of
models as they are then, whoever trained them; the final training (the best setting, exactly, from scratch, to R) is not
on the curve, and its test error is the winner's. Optuna's winner is the setting of its lowest error, whether its trial
was completed or not. "Whole search" is the time to the last result of a whole Hyperband, of Optuna what it was given.
A side that never got to Optuna's final quality is 0 times faster.

What is in --keep is not run again; a side that was cut is run again from its start, since its time is what counts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from side_by_side import table

from stantune.cli.options import SEARCH_PERIOD
from stantune.data import Batches
from stantune.errors import UsageError
from stantune.files import write_whole
from stantune.kernels.library import plain_pytorch
from stantune.outcome import Outcome
from stantune.problems import find
from stantune.runtime import tune_process
from stantune.search import fidelity
from stantune.search.directory import SearchDirectory
from stantune.search.executors import Ended, Executor, StopEarly, Task, Watch
from stantune.search.loop import search
from stantune.search.settings import SearchSettings, default_min_iterations
from stantune.search.training import TrainerOrder
from stantune.search.workers import Workers
from stantune.seeds import derive
from stantune.space import Float
from stantune.stan.config import Stan
from stantune.train import error_percent, run

ETA = 3
EXACT = "exact"
OPTUNA = "optuna"
# Seconds that a process waits for the database while the other one writes.
PATIENCE = 100


@dataclass(frozen=True)
class Found:
    """What one side came to with one seed.

    Attributes:
        points: (seconds, validation error in percent) of each evaluation, in order.
        seconds: of the search, to its last result.
        final_seconds: of the final training and its evaluation.
        trials: begun.
        params: the best setting.
        test_error: of the final training, percent; None where it diverged.
    """

    points: list[tuple[float, float]]
    seconds: float
    final_seconds: float
    trials: int
    params: dict[str, Any]
    test_error: float | None


def settings_of(problem: str, iterations: int, seed: int, side: str) -> SearchSettings:
    """Return the settings of our search."""
    least = default_min_iterations(iterations, ETA)
    settings = SearchSettings(seed, iterations, least, ETA)
    kind, by_rung, text = side.partition(":")
    if side in (EXACT, OPTUNA):
        return settings
    if side not in ("native", "stan") and not (kind == "stan" and by_rung):
        raise UsageError(f"--sides {side}: there are {EXACT}, {OPTUNA}, native, stan, stan:auto and stan:RATE,RATE,…")
    rate = 1 if kind == "native" else 0.5
    stan = Stan(rate, period=int(SEARCH_PERIOD), iterations=iterations, layers=find(problem).stan_layers)
    if not by_rung:
        return replace(settings, stan=stan)
    rates = fidelity.parse_rates(text, iterations, least, ETA)
    return replace(settings, stan=replace(stan, rate=min(rates)), rates=rates if len(rates) > 1 else ())


class Timed:
    """An executor that notes when results come in; see stantune.search.executors.Executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._began = time.perf_counter()
        self.points: list[tuple[float, float]] = []
        self.seconds = 0.0
        self.final_seconds = 0.0

    @property
    def capacity(self) -> int:
        """See Executor."""
        return self._executor.capacity

    def submit(self, task: Task) -> None:
        """See Executor."""
        self._executor.submit(task)

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """See Executor."""
        over = self._executor.finished(stop_early, watch)
        now = time.perf_counter() - self._began
        for task, how in over:
            if not isinstance(how, Outcome):
                raise SystemExit(f"a training failed, and its time with it: {how.cause}")
            if task.job is None:
                self.final_seconds = now - self.seconds
            else:
                self.seconds = now
                if how.diverged_at is None:
                    self.points.append((now, how.errors["validation"]))
        return over


def search_ours(problem: str, iterations: int, seed: int, side: str, workers: int) -> Found:
    """Run a whole Hyperband of ours."""
    settings = settings_of(problem, iterations, seed, side)
    with tempfile.TemporaryDirectory() as path:
        directory = SearchDirectory(Path(path))
        with directory.locked(), Workers(TrainerOrder(problem, settings, None, directory), workers) as executor:
            timed = Timed(executor)
            state = search(find(problem), settings, directory, timed)
    final = state.final
    if final is None:
        raise SystemExit(f"{problem}, {iterations} iterations, seed {seed}, {side}: every trial diverged; give more")
    points, test_error = timed.points, final["errors"].get("test")
    return Found(points, timed.seconds, timed.final_seconds, len(state.rows), dict(final["params"]), test_error)


@dataclass(frozen=True)
class OptunaOrder:
    """What a process of the Optuna side needs; `began` is time.time() at the side's start, `budget` in seconds."""

    problem: str
    iterations: int
    seed: int
    url: str
    began: float
    budget: float
    reports: str

    @property
    def study(self) -> str:
        """The study's name, by which the pruner assigns trials to brackets."""
        return f"{self.problem}, seed {self.seed}"

    @property
    def least(self) -> int:
        """The least iterations before a trial may be pruned, r."""
        return default_min_iterations(self.iterations, ETA)

    def is_reported(self, done: int) -> bool:
        """Tell whether an error is reported after so many iterations."""
        if done == self.iterations or self.reports == "all":
            return done == self.iterations or done % self.least == 0
        return any(done == self.least * ETA**power for power in range(done.bit_length()))


def optimize(order: OptunaOrder, place: int) -> list[tuple[float, float, int]]:
    """Work on the study, as process number `place`, until time is up; return (seconds, error, trial) of each report."""
    import optuna
    from optuna.pruners import HyperbandPruner
    from optuna.samplers import TPESampler
    from optuna.storages import RDBStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tune_process(1)
    problem = find(order.problem)
    splits = problem.load()
    reported: list[tuple[float, float, int]] = []

    def objective(trial: optuna.Trial) -> float:
        setting = {}
        for name, parameter in problem.space.items():
            assert isinstance(parameter, Float), "the spaces compared here have no others"
            setting[name] = trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
        torch.manual_seed(derive("optuna", order.seed, trial.number))
        model = problem.build(setting).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = problem.solver.optimizer(model, setting)
        seed = derive("optuna data", order.seed, trial.number)
        batches = Batches(splits.train, problem.batch_size, seed, splits.normaliser, problem.augment, "cpu")
        error = math.nan
        for iteration in range(order.iterations):
            batch = batches.at(iteration)
            problem.solver.set_iteration(optimizer, iteration)
            loss = F.cross_entropy(model(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise optuna.TrialPruned
            done = iteration + 1
            if order.is_reported(done):
                error = error_percent(model, splits, splits.validation)
            seconds = time.time() - order.began
            if seconds > order.budget:
                trial.study.stop()
                raise optuna.TrialPruned
            if order.is_reported(done):
                reported.append((seconds, error, trial.number))
                trial.report(error, done)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return error

    study = optuna.load_study(
        study_name=order.study,
        storage=RDBStorage(order.url, engine_kwargs={"connect_args": {"timeout": PATIENCE}}),
        sampler=TPESampler(seed=derive("optuna sampler", order.seed, place) % 2**32),
        pruner=HyperbandPruner(min_resource=order.least, max_resource=order.iterations, reduction_factor=ETA),
    )
    with plain_pytorch():
        study.optimize(objective)
    return reported


def train_finally(problem: str, iterations: int, seed: int, params: Mapping[str, Any]) -> tuple[float | None, float]:
    """Train Optuna's best setting as our search trains its own in the end; return test error and seconds."""
    tune_process(1)
    began = time.perf_counter()
    what = find(problem)
    settings = settings_of(problem, iterations, seed, OPTUNA)
    splits = what.load()
    outcome = run(what, params, None, 0, iterations, splits=splits, seed=settings.final_seed(), evaluate=("test",))
    return outcome.errors.get("test"), time.perf_counter() - began


def search_optuna(problem: str, iterations: int, seed: int, workers: int, budget: float, reports: str) -> Found:
    """Have Optuna search for `budget` seconds."""
    import optuna

    with tempfile.TemporaryDirectory() as path:
        url = f"sqlite:///{Path(path) / 'study.db'}"
        order = OptunaOrder(problem, iterations, seed, url, time.time(), budget, reports)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(storage=url, study_name=order.study)
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            futures = [pool.submit(optimize, order, place) for place in range(workers)]
            reported = sorted(report for future in futures for report in future.result())
        if not reported:
            raise SystemExit(
                f"{problem}, {iterations} iterations, seed {seed}: Optuna reported no error in {budget:.0f} s"
            )
        trials = study.trials
        params = trials[min(reported, key=lambda report: report[1])[2]].params
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        test_error, final_seconds = pool.submit(train_finally, problem, iterations, seed, params).result()
    points = [(seconds, error) for seconds, error, _ in reported]
    return Found(points, budget, final_seconds, len(trials), params, test_error)


class Kept:
    """What the sides came to, in a JSON file where there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._plain: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}

    def get(self, key: str) -> Found | None:
        """Return what was kept under this key, None where nothing was."""
        plain = self._plain.get(key)
        return None if plain is None else Found(**{**plain, "points": [tuple(point) for point in plain["points"]]})

    def put(self, key: str, found: Found) -> None:
        """Keep it."""
        self._plain[key] = vars(found)
        if self._file:
            write_whole(self._file, f"{json.dumps(self._plain, indent=1)}\n".encode())


def compute(options: argparse.Namespace, iterations: int, kept: Kept) -> dict[str, list[Found]]:
    """Run what is missing; return what each side came to, seed by seed."""
    found: dict[str, list[Found]] = {side: [] for side in options.sides}
    for seed in range(options.seeds):
        exact: Found | None = None
        for side in options.sides:
            name = _name(options, iterations, side)
            key = f"{options.problem} / {iterations} / {options.workers} workers / {name} / {seed}"
            what = kept.get(key)
            if what is None:
                if side == OPTUNA:
                    budget = options.budget or (exact.seconds if exact else math.nan)
                    what = search_optuna(options.problem, iterations, seed, options.workers, budget, options.reports)
                else:
                    what = search_ours(options.problem, iterations, seed, side, options.workers)
                kept.put(key, what)
                print(f"{time.strftime('%H:%M:%S')} {key}: {what.seconds:.0f} s, {best(what):.2f} %", flush=True)
            exact = what if side == EXACT else exact
            found[side].append(what)
    return found


def _name(options: argparse.Namespace, iterations: int, side: str) -> str:
    """Return the side with all that its result depends on: the rates that "auto" stands for may change."""
    if side == OPTUNA:
        return f"{side}, reports {options.reports}"
    rates = settings_of(options.problem, iterations, 0, side).rates
    return fidelity.text_of(rates) if rates else side


def best(found: Found) -> float:
    """Return the lowest validation error of the whole search."""
    return min(error for _, error in found.points)


def reached(found: Found, quality: float) -> float:
    """Return the seconds until the validation error was this low; infinite where it never was."""
    return next((seconds for seconds, error in found.points if error <= quality), math.inf)


def best_at(found: Found, seconds: float) -> float:
    """Return the lowest validation error until then; nan where there was none."""
    return min((error for at, error in found.points if at <= seconds), default=math.nan)


def quartiles(values: Sequence[float], form: str) -> str:
    """Return the median and the quartiles."""
    if not values:
        return "–"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:{form}} ({low:{form}} … {high:{form}})"


def tables(found: Mapping[str, list[Found]]) -> str:
    """Return the numbers as Markdown."""
    rows = []
    for side, runs in found.items():
        tests = [run.test_error for run in runs if run.test_error is not None]
        rows.append(
            (
                side,
                quartiles([run.seconds for run in runs], ".0f"),
                quartiles([run.trials for run in runs], ".0f"),
                quartiles([best(run) for run in runs], ".2f"),
                quartiles(tests, ".2f"),
                f"{statistics.fmean(tests):.2f}" if tests else "–",
            )
        )
    columns = ("side", "whole search, s", "trials", "best validation error", "winner's test error", "its mean")
    text = table(columns, rows)
    for other, what in ((EXACT, "through a whole Hyperband"), (OPTUNA, "to Optuna's final quality")):
        if other in found:
            against = [_against(side, runs, found[other], other) for side, runs in found.items() if side != other]
            header = (f"against {other}, seed by seed", f"times faster {what}", "got there", "test error above, mean")
            text += f"\n\n{table(header, against)}"
    return text


def _against(side: str, runs: Sequence[Found], others: Sequence[Found], other: str) -> tuple[str, str, str, str]:
    if other == EXACT and side == OPTUNA:
        faster: list[float] = []
    elif other == EXACT:
        faster = [theirs.seconds / mine.seconds for mine, theirs in zip(runs, others, strict=True)]
    else:
        pairs = list(zip(runs, others, strict=True))
        faster = [reached(theirs, best(theirs)) / reached(mine, best(theirs)) for mine, theirs in pairs]
    above = [
        mine.test_error - theirs.test_error
        for mine, theirs in zip(runs, others, strict=True)
        if mine.test_error is not None and theirs.test_error is not None
    ]
    got_there = f"{sum(value > 0 for value in faster)} of {len(faster)}" if faster else "–"
    return side, quartiles(faster, ".2f"), got_there, f"{statistics.fmean(above):+.2f}" if above else "–"


def draw(path: Path, title: str, found: Mapping[str, list[Found]]) -> None:
    """Draw the median of the best validation error against time, with quartiles, side by side. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for side, runs in found.items():
        # From when every seed has a result, to when the last one is done.
        first = max(run.points[0][0] for run in runs)
        times = sorted({seconds for run in runs for seconds, _ in run.points if seconds >= first} | {first})
        errors = np.array([[best_at(run, seconds) for seconds in times] for run in runs])
        low, middle, high = np.percentile(errors, (25, 50, 75), axis=0)
        (line,) = axes.step(times, middle, where="post", label=side)
        axes.fill_between(times, low, high, step="post", alpha=0.15, color=line.get_color(), linewidth=0)
        end = statistics.median(run.seconds for run in runs)
        there = statistics.median(best_at(run, max(end, first)) for run in runs)
        axes.plot(end, there, "o", color=line.get_color(), markersize=4)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_xlabel("seconds")
    axes.set_ylabel("best validation error, %")
    axes.set_title(title)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run what --keep does not hold yet; print and write the tables, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="cq", choices=["lenet", "cq"])
    parser.add_argument("--max-iterations", type=int, help="R (default: the problem's own number)")
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, …")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sides", nargs="*", default=[EXACT, OPTUNA, "stan", "stan:auto"], metavar="SIDE")
    parser.add_argument(
        "--reports", choices=["all", "rungs"], default="all", help="where Optuna's trials are evaluated"
    )
    parser.add_argument("--budget", type=float, help="Optuna's seconds (default: what exact took)")
    parser.add_argument("--keep", type=Path, help="a JSON file of what is done")
    parser.add_argument("--table", type=Path, help="a Markdown file for the tables")
    parser.add_argument("--plot", type=Path, help="an image file for the curves")
    options = parser.parse_args()
    if OPTUNA in options.sides and not options.budget and EXACT not in options.sides[: options.sides.index(OPTUNA)]:
        parser.error("optuna is given the time that exact took: name exact before it, or give --budget")
    iterations = options.max_iterations or find(options.problem).iterations
    try:
        for side in options.sides:
            settings_of(options.problem, iterations, 0, side).check(find(options.problem))
    except UsageError as error:
        parser.error(str(error))
    found = compute(options, iterations, Kept(options.keep))
    title = f"{options.problem}, R = {iterations}, {options.workers} workers, {options.seeds} seeds"
    text = f"{title}; median (quartiles)\n\n{tables(found)}\n"
    print(f"\n{text}")
    if options.table:
        write_whole(options.table, text.encode())
    if options.plot:
        draw(options.plot, title, found)


if __name__ == "__main__":
    main()
