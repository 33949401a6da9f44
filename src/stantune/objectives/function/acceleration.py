"""Acceleration: STAN in one model of a function's, moved by its optimizer, at the rate of the present rung."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stantune.stan.config import Stan
from stantune.stan.handle import StanHandle
from stantune.stan.schedule import Phase
from stantune.stan.surgery import accelerate_saying_, restore_


class Acceleration:
    """Moves one accelerated model through its schedule, and follows the search's rates.

    Attributes:
        handle: STAN's at present; another one after the rate has changed.
    """

    def __init__(
        self,
        model: nn.Module,
        stan: Stan,
        rates: Sequence[tuple[int, float]],
        done: int,
        example: Tensor | None,
        say: Callable[[str], None],
    ) -> None:
        """Accelerate the model.

        Args:
            model: changed in place.
            stan: the settings; none of `rates` holds before the first one's beginning.
            rates: pairs (from where on, rate), in the objective's unit.
            done: how far the training is, in the same unit.
            example: what `accelerate_` may need.
            say: is told where nothing was changed.
        """
        self._model = model
        self._example = example
        self._rates = tuple(rates)
        self._say = say
        self._stan = self._stan_at(stan, done)
        self.handle: StanHandle = self._accelerated()
        self._hook: _StepHook | None = None
        self._reduced = False
        self._spared = False
        self._began = 0

    def step(self) -> None:
        """Go on to the next iteration: for loops none of whose optimizers is kept, once per optimizer step."""
        self._reduced = self._reduced or self.handle.phase is Phase.REDUCED
        self.handle.step()

    def visit(self, ids: Tensor, inputs: Tensor | None = None) -> None:
        """Say which samples the next forward pass is of; see StanHandle.visit."""
        self.handle.visit(ids, inputs)

    def attach(self, optimizer: Optimizer) -> None:
        """Go on with each step of the optimizer, if it has any of the model's parameters and no other one does that."""
        if self._hook is not None:
            return
        groups = optimizer.param_groups
        # Now: the model may have been given other parameters since it was accelerated.
        own = {id(parameter) for parameter in self._model.parameters()}
        stepping = _that_steps(optimizer)
        if stepping is not None and any(id(parameter) in own for group in groups for parameter in group["params"]):
            self._hook = _StepHook(stepping, self.step)

    def detach(self) -> None:
        """Let go of the optimizer."""
        if self._hook is not None:
            self._hook.remove()

    def follow(self, done: int) -> bool:
        """Take the rate that holds from `done` on; tell whether any iteration since the last time was reduced."""
        reduced, self._reduced = self._reduced, False
        stan = self._stan_at(self._stan, done)
        if stan is not self._stan:
            iteration = self.handle.iteration
            self._spared = self._spared or self._spares()
            restore_(self._model)
            self._stan = stan
            self.handle = self._accelerated()
            self.handle.seek(iteration)
        return reduced

    @property
    def stands(self) -> bool:
        """Tell whether nothing moves it, and there is or was anything to be moved."""
        moved = self._hook is not None or self.handle.iteration != self._began
        return not moved and (self._spared or self._spares())

    @property
    def state(self) -> dict[str, Any]:
        """What a training that goes on needs."""
        return self.handle.state_dict()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was; raises UsageError where it is of other settings."""
        self.handle.load_state_dict(state)
        self._began = self.handle.iteration

    def _spares(self) -> bool:
        return any(layer.patterns for layer in self.handle.report)

    def _stan_at(self, stan: Stan, done: int) -> Stan:
        rate = next((rate for start, rate in reversed(self._rates) if start <= done), None)
        return stan if rate is None or rate == stan.rate else replace(stan, rate=rate)

    def _accelerated(self) -> StanHandle:
        return accelerate_saying_(self._model, self._stan, self._say_why, self._example)

    def _say_why(self, why: str) -> None:
        # At a rate of 1 nothing need be changed.
        if self._stan.rate != 1:
            self._say(why)


def _that_steps(optimizer: Optimizer) -> Optimizer | None:
    """Return the optimizer itself, or the one within that it calls where it takes no hooks; None where there is none.

    That of Hugging Face's Accelerate is made without its base class's `__init__`, and has no hooks. It calls its own
    where gradients are whole, and so not while they are accumulated.
    """
    within: Any = optimizer
    while isinstance(within, Optimizer):
        if hasattr(within, "_optimizer_step_post_hooks"):
            return within
        within = getattr(within, "optimizer", None)
    return None


class _StepHook:
    """Calls a function once at the end of each of an optimizer's steps.

    A step that calls its base class's runs all hooks twice where PyTorch has put them into that one, too: where one of
    the base class was made in this process, whoever made it.
    """

    def __init__(self, optimizer: Optimizer, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._outermost: FrameType | None = None
        self._hooks = (
            optimizer.register_step_pre_hook(lambda *_: self._begin(sys._getframe(1))),
            optimizer.register_step_post_hook(lambda *_: self._end(sys._getframe(1))),
        )

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, step: FrameType) -> None:
        # Not counted: a step that raised has begun, and never ends.
        frame: FrameType | None = step
        while frame is not None and frame is not self._outermost:
            frame = frame.f_back
        if frame is None:
            self._outermost = step

    def _end(self, step: FrameType) -> None:
        if step is self._outermost:
            self._outermost = None
            self._ended()
