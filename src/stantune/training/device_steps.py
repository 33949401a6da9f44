"""Steps that a device makes by itself: a graph that finds its batch, its rates and the place for its loss there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from stantune.kernels.cuda.lanes import Lane
from stantune.kernels.sgd import Noted, Sgd
from stantune.stan.graphs import SEEN, warn_unrecorded
from stantune.training.steps import Step
from stantune.training.trainable import Feeding

# So many kinds of steps (rates of 0, say) are recorded at a time; all others run as they are written.
MOST = 4
# Made as often as it is written, a further kind takes the place of the oldest: recording takes as long as a few steps.
OFTEN = 8


class Recorder(Protocol):
    """Where steps run, and how one is recorded."""

    def run(self, step: Callable[[], None]) -> None:
        """Do a step now, where it would be recorded."""
        ...

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without doing it; return what does it."""
        ...


class DeviceSteps:
    """Makes the steps of a block of iterations, and waits for nothing.

    What the iterations differ in goes to the device once for all of the block: which samples they train on, and SGD's
    rates and momenta. Each step finds its own by the number of steps before it, which it counts itself. So it is the
    same work each time, and recorded as a CUDA graph it is replayed by one call. The first step of a training is made
    as it is written: it allocates.

    A graph holds the tensors that it was recorded with: make a new DeviceSteps where model or optimizer get others.
    """

    def __init__(
        self,
        step: Step,
        feeding: Feeding,
        optimizer: torch.optim.Optimizer,
        prepare: Callable[[int], None],
        most: int,
        recorder: Recorder,
    ) -> None:
        """Take what a step is.

        Args:
            step: the whole of it on a batch, without waiting; returns the loss, a scalar.
            feeding: the batches.
            optimizer: what `step` uses; SGD's rates and momenta are read from the device.
            prepare: sets the optimizer's rates for the iteration with a number.
            most: iterations of a block.
            recorder: records on the device.
        """
        if isinstance(optimizer, Sgd):
            optimizer.follow()
        self._step, self._feeding, self._optimizer, self._prepare = step, feeding, optimizer, prepare
        self._recorder = recorder
        rows = feeding.rows(0, 1)
        device = rows.device
        self._rows = rows.new_zeros(most, rows.shape[1])
        self._losses = torch.zeros(most, device=device)
        self._done = torch.zeros(1, dtype=torch.int64, device=device)
        self._sent = optimizer.sent if isinstance(optimizer, Sgd) else None
        self._numbers = None if self._sent is None else self._sent.new_zeros(most, *self._sent.shape)
        # How often each kind was made as it is written.
        self._seen: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, Callable[[], None]] = {}
        self._most = MOST

    def __call__(self, first: int, count: int) -> Tensor:
        """Give the device the iterations from `first` on, no more than `most`; return their losses, (count,), there."""
        self._rows[:count].copy_(self._feeding.rows(first, count))
        self._done.zero_()
        followed = self._followed(first, count)
        for place in range(count):
            if followed is None:
                self._prepare(first + place)
                key: Hashable = _scheduled(self._optimizer)
            else:
                # All other numbers remain what they are.
                key = Sgd.kind_of_step(followed[place])
            if not self._replayed(key):
                self._prepared([first + place])
                self._made(key)
        self._prepared([first + count - 1])
        return self._losses[:count].clone()

    def _followed(self, first: int, count: int) -> Noted | None:
        """Have the device know SGD's rates and momenta in these iterations, and return them; None for others."""
        if self._numbers is None:
            return None
        numbers = self._prepared(range(first, first + count))
        self._numbers[:count].copy_(torch.tensor(numbers))
        return numbers

    def _prepared(self, iterations: Iterable[int]) -> Noted:
        """Set the optimizer's groups for one iteration after the other, and have it send nothing by itself."""
        optimizer = self._optimizer
        nothing: AbstractContextManager[Noted] = nullcontext([])
        with optimizer.noting() if isinstance(optimizer, Sgd) else nothing as noted:
            for iteration in iterations:
                self._prepare(iteration)
        return noted

    def _replayed(self, key: Hashable) -> bool:
        """Make the next step by a graph, if there is one."""
        replay = self._recorded.get(key)
        if replay is None:
            return False
        replay()
        return True

    def _made(self, key: Hashable) -> None:
        """Make the next step, and have it recorded for those to come if one like it has been made before."""
        if self._wanted(key):
            try:
                self._recorded[key] = self._recorder.record(self._next)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # CUDA's errors among them
                warn_unrecorded(error)
                self._most = 0
        if not self._replayed(key):
            # Where rates are others in each step, none would ever come again.
            if key not in self._seen and len(self._seen) == SEEN:
                self._seen.clear()
            self._seen[key] = self._seen.get(key, 0) + 1
            self._recorder.run(self._next)

    def _wanted(self, key: Hashable) -> bool:
        """Tell whether a step is to be recorded now, and make room for it."""
        full = len(self._recorded) >= self._most
        if not self._most or self._seen.get(key, 0) < (OFTEN if full else 1):
            return False
        if full:
            del self._recorded[next(iter(self._recorded))]
        del self._seen[key]
        return True

    def _next(self) -> None:
        """Make the step of the iteration whose turn it is by the device's count."""
        batch = self._feeding.gathered(self._rows.index_select(0, self._done)[0])
        if self._sent is not None and self._numbers is not None:
            self._sent.copy_(self._numbers.index_select(0, self._done)[0])
        loss = self._step(batch.inputs, batch.targets)
        self._losses.index_copy_(0, self._done, loss.detach().reshape(1).to(self._losses.dtype))
        self._done.add_(1)


def _scheduled(optimizer: torch.optim.Optimizer) -> Hashable:
    """Return the numbers of an optimizer that schedules change; all others remain what they are in a training."""
    return tuple(group.get(name) for group in optimizer.param_groups for name in ("lr", "momentum", "betas"))


class InLane:
    """Records steps in a training's lane, where they run, too."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def run(self, step: Callable[[], None]) -> None:
        """See Recorder."""
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """See Recorder."""
        graph, _ = self._lane.recorded(step)
        return graph.replay
