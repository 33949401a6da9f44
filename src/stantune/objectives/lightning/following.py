"""The callback that follows a fit: its seeds, its losses, its end."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stantune.objectives.lightning.fit import Fit

# On a GPU a loss has to be waited for, which is done once in so many batches.
LOOK = 20


class Left(BaseException):
    """Leaves a fit at once. No Exception, so that no `except Exception` of the user's swallows it."""


class Lost(Left):
    """A loss is not finite."""


class Stopped(Left):
    """The search is to end."""


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
        # A fit begins with nobody having asked for the end, and Lightning would train on until somebody does it again.
        trainer.should_stop = trainer.should_stop or self._fit.asked_to_end
        self._fit.setup_seconds = time.perf_counter() - self._began

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._fit.seed_for("epoch", trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._fit.batches = True
        if batch_idx == 0:
            # Whether the first batch is fetched before the epoch's hooks or after them differs with the first epoch.
            self._fit.seed_for("steps", trainer.current_epoch)
            if trainer.fit_loop._skip_backward:
                # Lightning steps behind the last batch also here, by the gradients that training has left.
                for optimizer in trainer.optimizers:
                    optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        # Those of an epoch in which batch norms' statistics are taken anew are of no training.
        if isinstance(loss, Tensor) and not trainer.fit_loop._skip_backward:
            # Lightning has divided it by that.
            self._losses.append(loss.detach().float().mean() * trainer.accumulate_grad_batches)
            if loss.device.type == "cpu" or batch_idx % LOOK == 0:
                self._look()
        self._fit.watch(trainer.current_epoch)
        if self._fit.stop_early():
            raise Stopped

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._look()
        # An epoch behind the last one takes statistics, and is not counted.
        done, seconds = min(trainer.current_epoch + 1, self._fit.whole), time.perf_counter() - self._began
        if done >= self._fit.until or seconds >= self._fit.patience(self._fit.setup_seconds):
            self._fit.end_after(done)
        self._fit.watch(done)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        # Before other callbacks put other weights in: those that have been trained are what is gone on with.
        self._fit.left = self._fit.take(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._evaluating = time.perf_counter()
        # Before other callbacks put others in: these come back, also where they do so after this one's last hook.
        if _in_training(trainer):
            self._fit.states = {fingerprint(pl_module)}

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # Before other callbacks put back the weights that they have exchanged for the validation.
        if _in_training(trainer):
            self._fit.states.add(fingerprint(pl_module))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if _in_training(trainer):
            self._fit.states.add(fingerprint(pl_module))
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


def _in_training(trainer: Any) -> bool:
    """Tell whether a validation is the training's own: not Trainer.validate, which is timed as a whole, nor a check."""
    return bool(trainer.state.fn == "fit" and not trainer.sanity_checking)


def fingerprint(module: Any) -> str:
    """Return what tells a module's parameters and buffers from others, whoever has written them, and how."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in (*module.parameters(), *module.buffers()):
        try:
            content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            # Of a sparse one, or one without a size yet, there are no bytes to be seen: by how often it was written.
            content = str(tensor._version).encode()
        found.update(content)
    return found.hexdigest()


def follower(package: ModuleType, fit: Fit, began: float) -> Any:
    """Return a callback of a package's kind that follows a fit, which began at `began` by time.perf_counter."""
    return type("Follower", (_Follower, package.Callback), {})(fit, began)
