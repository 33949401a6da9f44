"""Optuna's Hyperband around a plain PyTorch loop, as its documentation has it: the other side of time_to_quality.py."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from benchmarks.searches.quality_results import Found
from stantune.images.problem.built_in import find
from stantune.images.solving.evaluation import error_percent
from stantune.kernels.library import plain_pytorch
from stantune.parameters import Categorical, Integer, Parameter
from stantune.process.runtime import tune_process
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.seeds import derive
from stantune.training.train import run

if TYPE_CHECKING:
    import optuna

ETA = 3
# Trials that TPE begins with, Optuna's own number.
STARTUP = 10
# Seconds that a process waits for the database while the other one writes.
PATIENCE = 100


@dataclass(frozen=True)
class OptunaOrder:
    """What a process of the Optuna side needs; `began` is time.time() at the side's start.

    `budget` and `most` are in seconds: between them the side goes on until TPE has learnt in every bracket.
    """

    problem: str
    iterations: int
    seed: int
    url: str
    began: float
    budget: float
    most: float
    reports: str

    @property
    def study(self) -> str:
        """The study's name, by which the pruner assigns trials to brackets."""
        return f"{self.problem}, seed {self.seed}"

    @property
    def least(self) -> int:
        """The least iterations before a trial may be pruned, r."""
        return default_min_resource(self.iterations, ETA)

    def is_reported(self, done: int) -> bool:
        """Tell whether an error is reported after so many iterations."""
        if done == self.iterations or self.reports == "all":
            return done == self.iterations or done % self.least == 0
        return any(done == self.least * ETA**power for power in range(done.bit_length()))


def optimize(order: OptunaOrder, place: int) -> tuple[list[tuple[float, float, int]], bool]:
    """Work on the study, as process number `place`, until time is up.

    Return (seconds, error, trial) of each report, and whether TPE has learnt in every bracket.
    """
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
        setting = {name: suggested(trial, name, parameter) for name, parameter in problem.space.items()}
        torch.manual_seed(derive("optuna", order.seed, trial.number))
        model = problem.build(setting).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = problem.optimizer(model, setting)
        prepare = problem.scheduled(optimizer, setting)
        batches = problem.batches(splits, setting, derive("optuna data", order.seed, trial.number), "cpu")
        error = math.nan
        for iteration in range(order.iterations):
            batch = batches.at(iteration)
            prepare(iteration)
            loss = F.cross_entropy(model(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise optuna.TrialPruned
            done = iteration + 1
            if order.is_reported(done):
                error = error_percent(model, splits.validation, splits.normaliser)
            seconds = time.time() - order.began
            if seconds > order.most:
                trial.study.stop()
                raise optuna.TrialPruned
            if order.is_reported(done):
                reported.append((seconds, error, trial.number))
                trial.report(error, done)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return error

    pruner = HyperbandPruner(min_resource=order.least, max_resource=order.iterations, reduction_factor=ETA)

    def end(study: optuna.Study, _: object) -> None:
        if time.time() - order.began > order.budget and min(ended_by_bracket(study, pruner)) >= STARTUP:
            study.stop()

    study = optuna.load_study(
        study_name=order.study,
        storage=RDBStorage(order.url, engine_kwargs={"connect_args": {"timeout": PATIENCE}}),
        sampler=TPESampler(n_startup_trials=STARTUP, seed=derive("optuna sampler", order.seed, place) % 2**32),
        pruner=pruner,
    )
    with plain_pytorch():
        study.optimize(objective, callbacks=[end])
    return reported, min(ended_by_bracket(study, pruner)) >= STARTUP


def suggested(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    """Return what Optuna proposes for a parameter."""
    if isinstance(parameter, Categorical):
        return trial.suggest_categorical(name, list[Any](parameter.choices))
    assert parameter.step in (None, 1), "the spaces compared here have no steps"
    if isinstance(parameter, Integer):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def ended_by_bracket(study: optuna.Study, pruner: optuna.pruners.HyperbandPruner) -> list[int]:
    """Return how many trials of each of the pruner's brackets have ended.

    TPE learns from those of a trial's own bracket alone, and proposes at random while they are fewer than STARTUP.
    Which bracket that is only the pruner knows, by a method that is not public.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if pruner._n_brackets is None:  # not known before the first trial is reported
        return [0]
    brackets = [pruner._get_bracket_id(study, trial) for trial in trials]
    return [brackets.count(each) for each in range(pruner._n_brackets)]


def train_finally(problem: str, iterations: int, seed: int, params: Mapping[str, Any]) -> tuple[float | None, float]:
    """Train the best setting, with the seed that our search's final training has; return test error and seconds."""
    tune_process(1)
    began = time.perf_counter()
    what = find(problem)
    final_seed = SearchSettings(seed, iterations, default_min_resource(iterations, ETA), ETA).final_seed()
    outcome = run(what, params, None, 0, iterations, splits=what.load(), seed=final_seed, evaluate=("test",))
    return outcome.metrics.get("test error"), time.perf_counter() - began


def search_optuna(
    problem: str, iterations: int, seed: int, workers: int, budget: float, reports: str, patience: float = 1.0
) -> Found:
    """Have Optuna search for `budget` seconds.

    With a `patience` above 1 it goes on, for so many times the budget at the most, until as many trials as TPE begins
    with have ended in every bracket; Found.started says whether they have.
    """
    import optuna

    most = patience * budget
    with tempfile.TemporaryDirectory() as path:
        url = f"sqlite:///{Path(path) / 'study.db'}"
        order = OptunaOrder(problem, iterations, seed, url, time.time(), budget, most, reports)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(storage=url, study_name=order.study)
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            futures = [pool.submit(optimize, order, place) for place in range(workers)]
            told = [future.result() for future in futures]
        reported = sorted(report for reports, _ in told for report in reports)
        if not reported:
            raise SystemExit(
                f"{problem}, {iterations} iterations, seed {seed}: Optuna reported no error in {budget:.0f} s"
            )
        trials = study.trials
        params = trials[min(reported, key=lambda report: report[1])[2]].params
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        test_error, final_seconds = pool.submit(train_finally, problem, iterations, seed, params).result()
    points = [(seconds, error) for seconds, error, _ in reported]
    seconds = budget if patience == 1 else min(most, max(budget, points[-1][0]))
    started = any(started for _, started in told)
    return Found(points, seconds, final_seconds, len(trials), params, test_error, started)
