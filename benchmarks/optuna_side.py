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
from typing import Any

import torch
import torch.nn.functional as F
from quality_results import Found

from stantune.images.data import Batches
from stantune.images.evaluation import error_percent
from stantune.images.problems import find
from stantune.kernels.library import plain_pytorch
from stantune.runtime import tune_process
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.seeds import derive
from stantune.space import Float
from stantune.training.train import run

ETA = 3
# Seconds that a process waits for the database while the other one writes.
PATIENCE = 100


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
        return default_min_resource(self.iterations, ETA)

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
    """Train the best setting, with the seed that our search's final training has; return test error and seconds."""
    tune_process(1)
    began = time.perf_counter()
    what = find(problem)
    final_seed = SearchSettings(seed, iterations, default_min_resource(iterations, ETA), ETA).final_seed()
    outcome = run(what, params, None, 0, iterations, splits=what.load(), seed=final_seed, evaluate=("test",))
    return outcome.metrics.get("test error"), time.perf_counter() - began


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
