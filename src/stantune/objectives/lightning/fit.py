"""One fit of a Lightning module, from a checkpoint to an epoch's end; its random choices follow from the epoch."""

from __future__ import annotations

import copy
import importlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from stantune.loss_curve import LossMeans
from stantune.objectives.lightning.following import fingerprint, follower
from stantune.objectives.lightning.loaders import Loaders, seeded_loaders
from stantune.objectives.lightning.package import has_hook, interruptible, numbers_of, package_of
from stantune.objectives.surroundings import seed_all
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.stan.schedule import Phase

# What the Trainer is told by others, and why not here.
RESERVED = {
    "max_epochs": "the search says how long trainings are",
    "max_steps": "the search says how long trainings are",
    "callbacks": "give `callbacks`",
    "logger": "give `logger`",
}


@dataclass
class Fit:
    """One fit: what goes in, and what comes out of it.

    Attributes:
        params: the setting.
        seed: of the trial.
        start: the epoch that it goes on at.
        until: the epoch that it ends with.
        whole: max_epochs, of which learning rates may depend.
        device: where.
        folder: of the trial, for what Lightning wants to write.
        stop_early: asked after each batch.
        watch: told the epochs done, after each batch.
        patience: seconds after which the fit ends at an epoch's end, to be saved.
        take: gives what a checkpoint of a Trainer holds.
        losses: those before, and then the batches' of this fit as well.
        module: the LightningModule.
        loaders: its data.
        trainer: Lightning's.
        evaluation_seconds: time of validations.
        asked_to_end: a callback asked for the end before, and Lightning trains on up to its min_epochs or min_steps.
        batches: whether any batch came to be trained.
        validated: the optimizer step after which the last validation was.
        states: fingerprints of the module from before that and from its end: of the weights that were validated, and of
            those that come back after it, where a callback has put others in for it.
        left: what `take` gave when the last epoch was over, before anything else was done for the training's end.
        setup_seconds: time that passed before the first epoch.
    """

    params: Mapping[str, Any]
    seed: int
    start: int
    until: int
    whole: int
    device: str
    folder: Path
    stop_early: Callable[[], bool]
    watch: Callable[[int], None]
    patience: Callable[[float], float]
    take: Callable[[Any], dict[str, Any]]
    losses: LossMeans
    asked_to_end: bool = False
    batches: bool = False
    module: Any = None
    loaders: Loaders = field(default_factory=Loaders)
    trainer: Any = None
    evaluation_seconds: float = 0.0
    validated: int = -1
    states: set[str] = field(default_factory=set)
    left: dict[str, Any] = field(default_factory=dict)
    setup_seconds: float = 0.0
    _aim: int = field(default=0, init=False)
    _stan: Any = field(default=None, init=False)

    def run(
        self,
        make_module: Callable[[dict[str, Any]], Any],
        make_data: Callable[[dict[str, Any]], Any] | None,
        settings: Mapping[str, Any],
        callbacks: Sequence[Any],
        logger: Any,
        stan: Stan | None,
        checkpoint: Path | None,
    ) -> None:
        """Train.

        Args:
            make_module: gives the LightningModule of a setting.
            make_data: gives the data of a setting; None where the module has its own.
            settings: of Lightning's Trainer.
            callbacks: are copied.
            logger: is copied; False for none.
            stan: how it is accelerated; None for not at all.
            checkpoint: to go on from; None begins anew.

        Raises:
            Left: the fit was left in the middle of an epoch.
            StantuneError: Lightning is not installed, or something given is none of its own.
        """
        began = time.perf_counter()
        # What is made has its seeds for itself, so that it is the same in each segment, however much of it is made.
        self.seed_for("data")
        self.loaders = Loaders.of(None if make_data is None else make_data(dict(self.params)))
        self.seed_for("module")
        self.module = make_module(dict(self.params))
        package = package_of(self.module)
        added = [follower(package, self, began)]
        if stan is not None:
            from stantune.integrations.lightning import StanCallback

            self._stan = StanCallback(stan)
            added.append(self._stan)
        own = [copy.deepcopy(callback) for callback in callbacks]
        arguments = trainer_arguments(package, self, settings, own, added)
        self.trainer = package.Trainer(**arguments, logger=copy.deepcopy(logger))
        self.seed_for("setup")
        with seeded_loaders(package, self) as given, interruptible():
            self.trainer.fit(self.module, **given, **from_checkpoint(self.trainer, checkpoint))
        self.trainer.fit_loop.max_epochs = self.whole

    @property
    def epoch(self) -> int:
        """Epochs done; one that only takes batch norms' statistics, behind the last one, is none."""
        return min(int(self.trainer.current_epoch), self.whole)

    @property
    def stands(self) -> bool:
        """Tell whether STAN was to spare something, and no step of an optimizer moved it."""
        return self._stan is not None and bool(self._stan.stands)

    @property
    def spares(self) -> bool:
        """Tell whether STAN was to spare something, and did not stand in an iteration that computes everything."""
        return self._stan is not None and (not self.stands or self._stan.handle.phase is Phase.REDUCED)

    @property
    def ended(self) -> bool:
        """Tell whether something else than the search ended the training for good, a callback of the user's."""
        trainer = self.trainer
        enough = self.epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
        return bool(trainer.should_stop and enough) or self.epoch < self._aim or not self._aim

    def seed_for(self, purpose: str, epoch: int | None = None) -> None:
        """Seed all random choices that come next."""
        seed_all(derive(purpose, self.seed) if epoch is None else derive(purpose, self.seed, epoch), self.device)

    def end_after(self, epoch: int) -> None:
        """Have the fit end with this epoch, which is the present one."""
        self._aim = epoch
        if epoch < self.whole or not self._takes_statistics:
            # Not should_stop, which tells that someone else ended it; and not before, since schedules look at it.
            self.trainer.fit_loop.max_epochs = epoch

    @property
    def _takes_statistics(self) -> bool:
        """Tell whether Lightning takes batch norms' statistics of averaged weights, in an epoch behind the last one."""
        kind = package_of(self.module).callbacks.StochasticWeightAveraging
        averages = any(isinstance(callback, kind) for callback in self.trainer.callbacks)
        # Under manual optimization nothing keeps the module from training on in it.
        only_passes = self.module.automatic_optimization and self.trainer.fit_loop.max_epochs == self.whole + 1
        return averages and bool(only_passes)

    def evaluated(self) -> dict[str, float]:
        """Return the metrics of the weights that there are now; those are validated now that were not."""
        metrics = numbers_of(self.trainer.callback_metrics)
        # Not every step is counted, and when a training ends callbacks put means in, or their best weights.
        stale = self.validated != self.trainer.global_step or fingerprint(self.module) not in self.states
        if self.trainer.enable_validation and stale:
            metrics |= self._evaluate(self.trainer.validate, self.loaders.validation)
        return metrics

    def tested(self) -> dict[str, float]:
        """Return the metrics of the test set; none where there is none."""
        package = package_of(self.module)
        where = next(
            (each for each in (self.loaders.module, self.module) if has_hook(package, each, "test_dataloader")), None
        )
        if not has_hook(package, self.module, "test_step") or (self.loaders.test is None and where is None):
            return {}
        return self._evaluate(self.trainer.test, self.loaders.test)

    def _evaluate(self, how: Callable[..., Any], loaders: Any) -> dict[str, float]:
        began = time.perf_counter()
        with interruptible():
            if loaders is None and self.loaders.module is not None:
                how(self.module, datamodule=self.loaders.module, verbose=False)
            else:
                how(self.module, loaders, verbose=False)
        self.evaluation_seconds += time.perf_counter() - began
        return numbers_of(self.trainer.callback_metrics)


def from_checkpoint(trainer: Any, checkpoint: Path | None) -> dict[str, Any]:
    """Return the arguments by which a fit goes on from a checkpoint, in which nothing is executed."""
    if checkpoint is None:
        return {}
    # Lightning before 2.6 does not take it; the file was looked at in any case.
    safely = {"weights_only": True} if "weights_only" in inspect.signature(trainer.fit).parameters else {}
    return {"ckpt_path": str(checkpoint), **safely}


def trainer_arguments(
    package: ModuleType, fit: Fit, settings: Mapping[str, Any], own: Sequence[Any], added: Sequence[Any]
) -> dict[str, Any]:
    """Return the Trainer's arguments: the user's, and where they say nothing, what is right in a search."""
    callbacks = package.callbacks
    environments = importlib.import_module(f"{package.__name__}.plugins.environments")

    def wants(*kinds: type) -> bool:
        return any(isinstance(callback, kinds) for callback in own)

    defaults: dict[str, Any] = {
        # A trial is one process, also within a batch system's job, whose size is the search's.
        "plugins": [environments.LightningEnvironment()],
        "default_root_dir": fit.folder,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": wants(callbacks.Checkpoint),
        "enable_progress_bar": wants(callbacks.ProgressBar),
        "enable_model_summary": wants(callbacks.ModelSummary),
    }
    where = _where(package, fit.device, settings)
    return {**defaults, **settings, **where, "max_epochs": fit.whole, "callbacks": [*added[:1], *own, *added[1:]]}


def _where(package: ModuleType, device: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return accelerator and devices: the user's, but the one device of this place where they say no other number."""
    on_gpu = device.startswith("cuda")
    accelerator = settings.get("accelerator", "gpu" if on_gpu else "cpu")
    devices = settings.get("devices", "auto")
    if devices in ("auto", 1, "1"):
        # Not Lightning's auto, which is all of them, and several begin the program again.
        of_gpu = accelerator in ("gpu", "cuda", "auto") or isinstance(accelerator, package.accelerators.CUDAAccelerator)
        devices = [torch.device(device).index or 0] if on_gpu and of_gpu else 1
    return {"accelerator": accelerator, "devices": devices}
