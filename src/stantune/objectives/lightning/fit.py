"""One fit of a Lightning module, from a checkpoint to an epoch's end; its random choices follow from the epoch."""

from __future__ import annotations

import copy
import importlib
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stantune.errors import StantuneError, UsageError
from stantune.loss_curve import LossMeans
from stantune.objectives.surroundings import seed_all
from stantune.seeds import derive
from stantune.stan.config import Stan

# On a GPU a loss has to be waited for, which is done once in so many batches.
LOOK = 20
MISSING = "Lightning is not installed; pip install 'stantune[lightning]'"
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
# What the Trainer is told by others, and why not here.
RESERVED = {
    "max_epochs": "the search says how long trainings are",
    "max_steps": "the search says how long trainings are",
    "callbacks": "give `callbacks`",
    "logger": "give `logger`",
}


class Left(BaseException):
    """Leaves a fit at once. No Exception, so that no `except Exception` of the user's swallows it."""


class Lost(Left):
    """A loss is not finite."""


class Stopped(Left):
    """The search is to end."""


class Loaders(NamedTuple):
    """What `data(params)` gave: a data module, or loaders, or nothing where the module has its own."""

    module: Any = None
    train: Any = None
    validation: Any = None
    test: Any = None

    @classmethod
    def of(cls, data: Any) -> Loaders:
        """Take a data module, a loader, or a tuple of two or three; raises UsageError."""
        if data is None:
            return cls()
        if any(kind.__name__ == "LightningDataModule" for kind in type(data).__mro__):
            return cls(module=data)
        if not isinstance(data, tuple):
            return cls(train=data)
        if not 1 <= len(data) <= 3:
            raise UsageError(
                f"`data` gave a tuple of {len(data)}; give a data module, or loaders for training, validation and test"
            )
        return cls(None, *data)


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
        losses: those before, and then the batches' of this fit as well.
        module: the LightningModule.
        loaders: its data.
        trainer: Lightning's.
        evaluation_seconds: time of validations.
        validated: the optimizer step after which the last validation was.
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
    losses: LossMeans
    module: Any = None
    loaders: Loaders = field(default_factory=Loaders)
    trainer: Any = None
    evaluation_seconds: float = 0.0
    validated: int = -1
    setup_seconds: float = 0.0
    _aim: int = field(default=0, init=False)

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
        added = [_follower(package, self, began)]
        if stan is not None:
            from stantune.integrations.lightning import StanCallback

            added.append(StanCallback(stan))
        own = [copy.deepcopy(callback) for callback in callbacks]
        arguments = trainer_arguments(package, self, settings, own, added)
        self.trainer = package.Trainer(**arguments, logger=copy.deepcopy(logger))
        self.seed_for("setup")
        with _seeded_loaders(package, self) as given, interruptible():
            self.trainer.fit(self.module, **given, ckpt_path=None if checkpoint is None else str(checkpoint))
        self.trainer.fit_loop.max_epochs = self.whole

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return int(self.trainer.current_epoch)

    @property
    def ended(self) -> bool:
        """Tell whether something else than the search ended the training for good, a callback of the user's."""
        asked = self.trainer.should_stop and self.epoch >= (self.trainer.min_epochs or 0)
        return bool(asked) or self.epoch < self._aim or not self._aim

    def seed_for(self, purpose: str, epoch: int | None = None) -> None:
        """Seed all random choices that come next."""
        seed_all(derive(purpose, self.seed) if epoch is None else derive(purpose, self.seed, epoch), self.device)

    def end_after(self, epoch: int) -> None:
        """Have the fit end with this epoch, which is the present one."""
        # Not should_stop, which tells that someone else ended it; and not before, since schedules look at max_epochs.
        self.trainer.fit_loop.max_epochs = self._aim = epoch

    def evaluated(self) -> dict[str, float]:
        """Return the metrics as they are after the last step; those are validated now that were not."""
        metrics = numbers_of(self.trainer.callback_metrics)
        if self.trainer.enable_validation and self.validated != self.trainer.global_step:
            metrics |= self._evaluate(self.trainer.validate, self.loaders.validation)
        return metrics

    def tested(self) -> dict[str, float]:
        """Return the metrics of the test set; none where there is none."""
        package = package_of(self.module)
        where = next(
            (each for each in (self.loaders.module, self.module) if _has(package, each, "test_dataloader")), None
        )
        if not _has(package, self.module, "test_step") or (self.loaders.test is None and where is None):
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


class _Follower:
    """The hooks of the callback that follows a fit; mixed into Lightning's Callback."""

    def __init__(self, fit: Fit, began: float) -> None:
        super().__init__()
        self._fit = fit
        self._began = began
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._evaluating = 0.0
        # On their way from a device.
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if threading.current_thread() is threading.main_thread() and self._sigterm is not None:
            # Lightning has just put its own in place, that would end a worker which the search wants to go on.
            signal.signal(signal.SIGTERM, self._sigterm)
        self._fit.setup_seconds = time.perf_counter() - self._began

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._fit.seed_for("epoch", trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            # Whether the first batch is fetched before the epoch's hooks or after them differs with the first epoch.
            self._fit.seed_for("steps", trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            # Lightning has divided it by that.
            self._losses.append(loss.detach().float().mean() * trainer.accumulate_grad_batches)
            if loss.device.type == "cpu" or batch_idx % LOOK == 0:
                self._look()
        self._fit.watch(trainer.current_epoch)
        if self._fit.stop_early():
            raise Stopped

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._look()
        done, seconds = trainer.current_epoch + 1, time.perf_counter() - self._began
        if done >= self._fit.until or seconds >= self._fit.patience(self._fit.setup_seconds):
            self._fit.end_after(done)
        self._fit.watch(done)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._evaluating = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        # Not in Trainer.validate, which is timed as a whole, nor in the check before the training.
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._fit.evaluation_seconds += time.perf_counter() - self._evaluating
            self._fit.validated = trainer.global_step

    def _look(self) -> None:
        if not self._losses:
            return
        told, self._losses = torch.stack(self._losses).tolist(), []
        for loss in told:
            if not math.isfinite(loss):
                raise Lost
            self._fit.losses.take(loss)


def _follower(package: ModuleType, fit: Fit, began: float) -> Any:
    return type("Follower", (_Follower, package.Callback), {})(fit, began)


def package_of(module: Any) -> ModuleType:
    """Return the one of Lightning's two packages that a module is of: its Trainer knows its own modules alone."""
    for kind in type(module).__mro__:
        root = kind.__module__.partition(".")[0]
        if kind.__name__ == "LightningModule" and root in ("lightning", "pytorch_lightning"):
            return importlib.import_module("lightning.pytorch" if root == "lightning" else root)
    raise UsageError(
        f"`module` gave a {type(module).__name__}, which is no LightningModule; give a function from a setting to one"
    )


def require_lightning() -> None:
    """Raise StantuneError where neither of the packages is installed."""
    for name in ("lightning", "pytorch_lightning"):
        with suppress(ImportError):
            importlib.import_module(name)
            return
    raise StantuneError(MISSING)


def trainer_arguments(
    package: ModuleType, fit: Fit, settings: Mapping[str, Any], own: Sequence[Any], added: Sequence[Any]
) -> dict[str, Any]:
    """Return the Trainer's arguments: the user's, and where they say nothing, what is right in a search."""
    callbacks = package.callbacks
    environments = importlib.import_module(f"{package.__name__}.plugins.environments")

    def wants(*kinds: type) -> bool:
        return any(isinstance(callback, kinds) for callback in own)

    where = {"accelerator": "cpu", "devices": 1}
    if fit.device.startswith("cuda"):
        where = {"accelerator": "gpu", "devices": [torch.device(fit.device).index or 0]}
    defaults: dict[str, Any] = {
        **(where if "accelerator" not in settings else {}),
        # A trial is one process, also within a batch system's job, whose size is the search's.
        "plugins": [environments.LightningEnvironment()],
        "default_root_dir": fit.folder,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": wants(callbacks.Checkpoint),
        "enable_progress_bar": wants(callbacks.ProgressBar),
        "enable_model_summary": wants(callbacks.ModelSummary),
    }
    return {**defaults, **settings, "max_epochs": fit.whole, "callbacks": [*added[:1], *own, *added[1:]]}


@contextmanager
def _seeded_loaders(package: ModuleType, fit: Fit) -> Iterator[dict[str, Any]]:
    """Give the arguments of `fit` that say the data; the loaders for training begin each epoch with its own seed."""
    seeded = _seeded(package, fit)
    if fit.loaders.train is not None:
        yield {"train_dataloaders": seeded(fit.loaders.train), "val_dataloaders": fit.loaders.validation}
        return
    source = fit.module if fit.loaders.module is None else fit.loaders.module
    made = source.train_dataloader
    before = vars(source).get("train_dataloader")
    source.train_dataloader = lambda: seeded(made())
    try:
        if source is fit.module:
            yield {"val_dataloaders": fit.loaders.validation}
        else:
            yield {"datamodule": source}
    finally:
        # A data module may be used again in the next segment.
        del source.train_dataloader
        if before is not None:
            source.train_dataloader = before


def _seeded(package: ModuleType, fit: Fit) -> Callable[[Any], Any]:
    combined: Any = importlib.import_module(f"{package.__name__}.utilities").CombinedLoader

    class Seeded(combined):  # type: ignore[misc]
        """Begins each epoch with the random states that belong to it."""

        # The epoch whose first batch is still to come.
        fresh: int | None = None

        def __iter__(self) -> Any:
            epoch = max(int(fit.trainer.current_epoch), fit.start)
            for place, loader in enumerate(self.flattened):
                _renew(loader, derive("loader", fit.seed, epoch, place))
            fit.seed_for("loaders", epoch)
            self.fresh = epoch
            return super().__iter__()

        def __next__(self) -> Any:
            if self.fresh is not None:
                fit.seed_for("order", self.fresh)
                self.fresh = None
            return super().__next__()

    def seeded(loaders: Any) -> Any:
        if isinstance(loaders, combined):
            return Seeded(loaders.iterables, loaders._mode)
        return Seeded(loaders, "max_size_cycle")

    return seeded


def _renew(loader: Any, seed: int) -> None:
    """Have a loader forget its epochs before: its own generators, and processes that would remember theirs."""
    sampler = getattr(loader, "batch_sampler", None)
    for holder in (loader, getattr(loader, "sampler", None), sampler, getattr(sampler, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
    if getattr(loader, "persistent_workers", False):
        loader._iterator = None


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics of Lightning's as numbers."""
    numbers = {}
    for name, value in metrics.items():
        with suppress(TypeError, ValueError, RuntimeError):
            numbers[str(name)] = float(value)
    return numbers


def _has(package: ModuleType, thing: Any, hook: str) -> bool:
    """Tell whether a module or a data module has a hook of its own."""
    if thing is None:
        return False
    if hook in vars(thing):
        return True
    bases = (package.LightningModule, package.LightningDataModule)
    return all(getattr(type(thing), hook) is not getattr(base, hook, None) for base in bases)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what Lightning says of each fit, and would say for each trial; real warnings pass."""
    # All of them, since the package that was imported last speaks for the other one, too.
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    with warnings.catch_warnings():
        for name in ("lightning", "lightning_fabric"):
            with suppress(ImportError):
                module = "fabric.utilities.warnings" if name == "lightning" else "utilities.warnings"
                warnings.simplefilter("ignore", importlib.import_module(f"{name}.{module}").PossibleUserWarning)
        # What Lightning's developers will have to change.
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(pytorch_)?lightning(_fabric)?\.")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through, which Lightning makes an exit and ignores from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
