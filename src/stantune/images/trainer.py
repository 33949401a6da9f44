"""Trains a search's tasks with the problem's own network and data, in the process that it is made in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stantune.errors import NoEffectWarning
from stantune.images.problems import Problem, Splits, find
from stantune.outcome import Outcome
from stantune.runtime import tune_process
from stantune.search.plan.finals import Final
from stantune.search.settings import SearchSettings
from stantune.search.table.directory import SearchDirectory
from stantune.search.workers.executors import StopEarly, Task
from stantune.stan.config import Stan
from stantune.training.train import run
from stantune.training.trial import RateFrom


class ProblemTrainer:
    """Trains a problem's settings; see executors.Trainer."""

    def __init__(
        self,
        problem: Problem,
        settings: SearchSettings,
        splits: Splits,
        directory: SearchDirectory,
        device: str | None = None,
    ) -> None:
        """Train on `device`, which is the settings' where None."""
        self._problem = problem
        self._settings = settings
        self._splits = splits
        self._directory = directory
        self._device = device or settings.device

    def train(self, task: Task, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See executors.Trainer. A final training is exact, from scratch, to the maximum."""
        settings, job = self._settings, task.job
        evaluate: tuple[str, ...]
        rates: tuple[RateFrom, ...]
        if isinstance(job, Final):
            seed = settings.final_seed()
            # Every entry computed, by native kernels where there are some.
            stan, rates = None if settings.stan is None else Stan(rate=1), ()
            evaluate = ("validation", "test")
        else:
            seed = settings.trial_seed(job.number)
            stan = None if settings.stan is None else replace(settings.stan, seed=seed)
            rates = settings.rates_from()
            evaluate = ("validation",)
        return run(
            self._problem,
            task.params,
            self._directory.checkpoint_of(job),
            job.start,
            job.stop,
            splits=self._splits,
            seed=seed,
            stan=stan,
            rates=rates,
            evaluate=evaluate,
            device=self._device,
            stop_early=stop_early,
            watch=watch,
        )


@dataclass(frozen=True)
class TrainerOrder:
    """All that another process needs in order to make a ProblemTrainer; it can be pickled.

    Attributes:
        problem: its name, or FILE.py:NAME; a Problem itself holds functions, which cannot always be pickled.
        settings: the search's.
        data: where data sets are kept, None for the default.
        directory: the search's; it must be the same place for all processes.
    """

    problem: str
    settings: SearchSettings
    data: Path | None
    directory: SearchDirectory

    def __call__(self, place: int) -> ProblemTrainer:
        """Prepare this process for training, load the data, and make the trainer of the worker with this number.

        Raises:
            StantuneError: the problem or its data cannot be loaded.
        """
        tune_process(self.settings.threads)
        # Said once, by the process that began the search.
        warnings.simplefilter("ignore", NoEffectWarning)
        problem = find(self.problem)
        device = device_of(self.settings.device, place, torch.cuda.device_count())
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        return ProblemTrainer(problem, self.settings, problem.load(self.data), self.directory, device)


def device_of(device: str, place: int, gpus: int) -> str:
    """Return where the worker with the number `place` trains: "cuda" means all GPUs, turn and turn about."""
    return f"cuda:{place % gpus}" if device == "cuda" and gpus else device
