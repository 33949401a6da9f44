"""StanCallback for Lightning: trains a LightningModule under STAN and gives it back as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stantune.errors import StantuneError, StanWarning
from stantune.integrations.start import FromBatch, Inputs, accelerate_at, first_of, require_ids, state_of, visit
from stantune.stan.config import Stan
from stantune.stan.handle import StanHandle
from stantune.stan.surgery import restore_


def _callbacks() -> tuple[type, ...]:
    """Return the Callback of each of Lightning's two packages that is installed; their Trainers know only their own."""
    found: list[type] = []
    missing: ImportError | None = None
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            found.append(import_module(package).Callback)
        except ImportError as error:
            missing = error
    if not found:
        raise StantuneError("Lightning is not installed; pip install 'stantune[lightning]'") from missing
    return tuple(found)


class StanCallback(*_callbacks()):  # type: ignore[misc]  # bases that are known at run time only
    """Trains the module under STAN: `Trainer(callbacks=[StanCallback(Stan(rate=0.5))])`.

    The module is accelerated at its first training batch and restored when the fit ends, also by an exception.
    Validation is exact, and before the first training batch (the sanity check) nothing is changed at all.

    The schedule counts optimizer steps, as max_steps, `trainer.global_step` and the learning rate's schedulers do:
    one iteration for each batch after which an optimizer has stepped (the last of those whose gradients are
    accumulated; under manual optimization, however many optimizers stepped, also without Lightning's wrapper or within
    another optimizer). The batches of one step share their entries, so that accumulating k batches remains what it is
    without STAN, one iteration on a batch k times as large. Where an epoch ends and no optimizer has stepped since the
    fit began, a warning says so.

    In the epoch that StochasticWeightAveraging adds to take batch norms' statistics the module is as without STAN.

    Under a rate of "auto" the first of several processes plans for all of them.

    A checkpoint holds the iteration: `fit(ckpt_path=...)` goes on there, and another `fit` of the same Trainer where
    it was. After a checkpoint of a training without this callback the iteration is `trainer.global_step`.

    Attributes:
        stan: the settings.
        handle: of the present fit, or of the last one; None before the first training batch.

    Args:
        stan: the settings; layers are named as in the LightningModule ("net.conv1").
        ids: gives the ids, (B,), of a batch's samples; for Stan(memo=...) alone.
        inputs: gives what the module is called with of a batch: a tensor, (B, C, H, W), a tuple of arguments or a
            dictionary of them by name; by default the batch's first item. For Stan(rate="auto") and memo alone.

    Raises:
        UsageError: memo without ids.
    """

    def __init__(self, stan: Stan, *, ids: FromBatch | None = None, inputs: Inputs = first_of) -> None:
        require_ids(stan, ids)
        self.stan = stan
        self.handle: StanHandle | None = None
        self._ids = ids
        self._inputs = inputs
        self._accelerated: nn.Module | None = None
        self._state: dict[str, Any] = {}
        self._optimizer_steps = 0
        self._stepped = False
        # Whether the present batch has moved the schedule.
        self._counted = False
        # Whether an optimizer has stepped since the fit began, and whether it was said that none has.
        self._moved = False
        self._said = False
        self._hooks: list[Any] = []

    @property
    def stands(self) -> bool:
        """Tell whether no optimizer has stepped since the fit began, of a module in which something is to be spared."""
        return self.handle is not None and not self._moved and any(line.patterns for line in self.handle.report)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget another training; a checkpoint's state comes after this."""
        if stage != "fit":
            return
        self._moved = False
        # By its batches: not all steps of optimizers are in global_step.
        if trainer.fit_loop.total_batch_idx < 0:
            self.handle = None
            self._state = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Accelerate the module if this is the fit's first batch."""
        # Of the batch before: the module's own on_train_batch_end comes after callbacks', and may step as well.
        self._count(trainer)
        if trainer.fit_loop._skip_backward:
            # Averaged weights are given their batch norms' statistics, which are to be those of exact passes.
            self._restore()
            return
        if self.handle is None or self._accelerated is None:
            iteration = self._state.get("iteration", trainer.global_step)
            # As the training's own passes are made: in which precision decides what pays.
            with trainer.precision_plugin.train_step_context():
                self.handle = accelerate_at(
                    pl_module, self.stan, batch, self._inputs, self._state, iteration, trainer.world_size
                )
            self._accelerated = pl_module
            self._state = {}  # a memo's state is large, and the handle holds it now
            for optimizer in _with_inner(trainer.optimizers):
                # One that has not called Optimizer.__init__ takes no hooks.
                with suppress(AttributeError):
                    self._hooks.append(optimizer.register_step_post_hook(self._note_step))
        visit(self.handle, batch, self._ids, self._inputs)
        self._optimizer_steps, self._stepped, self._counted = trainer.global_step, False, False

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Go on to the next iteration if an optimizer has stepped."""
        self._count(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Say, once, that nothing moves the schedule."""
        self._count(trainer)
        if self.stands and not self._said:
            self._said = True
            warnings.warn(
                "STAN stood still for an epoch: it moves with the steps of the trainer's optimizers, and none has "
                "stepped; step those that configure_optimizers gives, as by self.optimizers().step()",
                StanWarning,
                stacklevel=2,
            )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Restore the module."""
        self._restore()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Restore the module."""
        self._restore()

    def state_dict(self) -> dict[str, Any]:
        """Return the handle's state, also after the fit, for `trainer.save_checkpoint`."""
        return self._state if self._accelerated is None or self.handle is None else state_of(self.handle)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where the checkpoint was, at once or from the fit's first batch on."""
        if self._accelerated is not None and self.handle is not None:
            self.handle.load_state_dict(state_dict)
        else:
            self._state = dict(state_dict)

    def _count(self, trainer: Any) -> None:
        """Go on to the next iteration if an optimizer has stepped since the batch began; once for each batch."""
        if self.handle is None or self._accelerated is None or self._counted:
            return
        if self._stepped or trainer.global_step != self._optimizer_steps:
            self._counted = self._moved = True
            self.handle.step()

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def _restore(self) -> None:
        if self._accelerated is not None:
            self._state = self.state_dict()
            restore_(self._accelerated)
            self._accelerated = None
        while self._hooks:
            self._hooks.pop().remove()


def _with_inner(optimizers: Iterable[Any]) -> list[Optimizer]:
    """Return optimizers, and those that they hold and step themselves, as SAM does; each once."""
    found: dict[int, Optimizer] = {}
    things = list(optimizers)
    while things:
        thing = things.pop()
        if isinstance(thing, Optimizer) and id(thing) not in found:
            found[id(thing)] = thing
            things += vars(thing).values()
    return list(found.values())
