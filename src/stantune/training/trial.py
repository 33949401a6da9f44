"""Trial: the moving parts of one training, their state, and what they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stantune.kernels.cuda.lanes import Lane, drawing_from
from stantune.kernels.cuda.one_channel import with_fast_gradients_
from stantune.kernels.library import plain_pytorch
from stantune.loss_curve import LossMeans
from stantune.outcome import Cost
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.stan.handle import StanHandle
from stantune.stan.schedule import Phase
from stantune.stan.surgery import accelerate_
from stantune.training.compiling import compiled_step, compiling
from stantune.training.device_steps import DeviceSteps, InLane
from stantune.training.guard import Guard
from stantune.training.precision import casting
from stantune.training.steps import Step, can_be_recorded, load_state, plain_step, recorded_step
from stantune.training.together.randomness import seeded
from stantune.training.together.turns import drained
from stantune.training.trainable import Feeding, Splits, Trainable

# Checkpoints of before kept no more of it: what such a training began with is not known, so that chance is the measure.
_GUARD_OF_BEFORE = {"first": 0.0, "high": (), "peak": 0.0}
# A device is given so many iterations before their losses are waited for: it is never without work, and an iteration
# that turns out to be lost has cost no more than so many.
BLOCK = 32


class _Stretch(NamedTuple):
    """Iterations of one kind in a row: whether they are reduced, and when it began."""

    reduced: bool
    began: float


class Trial:
    """One training of a problem in memory: go on with `train` or `in_turns`, keep it by `state`, return by `restore`.

    It has random state of its own (torch's generators, for dropout and the like), so that several trials may take turns
    in one process and each gets the same result as alone.

    Iterations are done in blocks: submitted, and their losses collected later. Where the block is long, a device is
    never waited for; what the trial comes to is the same for every length.

    Attributes:
        model: the network, in training mode, its weights in channels_last memory.
        stan: STAN's settings, None where it trains exactly.
        handle: STAN's, None where it trains exactly.
        optimizer: the network's.
        batches: the training batches.
        guard: what tells that it diverged.
        start: the iteration that the segment began with.
        iteration: iterations done.
        moved: whether any were done since it was made or restored.
        losses: theirs, those of segments before among them.
        cost: what they took.
    """

    def __init__(
        self,
        problem: Trainable,
        setting: Mapping[str, Any],
        splits: Splits,
        *,
        seed: int,
        stan: Stan | None,
        device: str = "cpu",
        start: int = 0,
        block: int | None = None,
        precision: str | None = None,
        compile: bool = False,
        lane: Lane | None = None,
        native: bool = False,
    ) -> None:
        """Make a new network.

        Args:
            problem: what to train.
            setting: values of the problem's parameters, checked.
            splits: the problem's data.
            seed: of the weights, the data's order and every other random choice.
            stan: STAN's settings, with a plan if the rate is "auto"; None trains exactly.
            device: where to train.
            start: the iteration that the segment begins with; a restored state's cost counts where it began there too.
            block: iterations of a block; None for what suits the device.
            precision: one of precision.PRECISIONS for the device, None for what PyTorch is set to.
            compile: whether training steps run what torch.compile makes of the network; not with STAN.
            lane: of the CUDA device, in which whoever gives it has taken it up; None for one of the trial's own.
            native: whether native kernels may do its steps without STAN, too: for who times it with native layers in
                its network (`natively`).
        """
        self._device = device
        self._cuda = cuda_index(device)
        self._compile = compile
        # Without STAN a trial is what PyTorch alone trains: what STAN is compared with.
        self._plain = stan is None and not native
        self._running = False
        with seeded(derive("weights", seed), self._cuda):
            self.model = problem.build(setting).to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            self._random = torch.get_rng_state()
            if lane is not None and stan is None and not compile:
                with_fast_gradients_(self.model)
            # Graphs remember the generator that they were recorded with, so that each trial has one.
            self._generator = None if self._cuda is None else torch.cuda.default_generators[self._cuda].clone_state()
        self._criterion = problem.criterion(setting)
        self._casting = partial(casting, precision, device)
        self.optimizer = problem.optimizer(self.model, setting)
        self._prepare = problem.scheduled(self.optimizer, setting)
        self.batches = problem.batches(splits, setting, derive("data", seed), device)
        self.guard = Guard(problem.chance_loss(splits))
        self.losses = LossMeans()
        self.stan = stan
        self.handle: StanHandle | None = None
        if stan is not None:
            example = None if stan.memo is None else self.batches.at(0).inputs
            self.handle = accelerate_(self.model, stan, example)
        recordable = problem.recordable and not compile
        self._recordable = recordable and self._cuda is not None and can_be_recorded(self.optimizer)
        self._own_lane = self._cuda is not None and lane is None
        self._lane = Lane(self._cuda) if self._cuda is not None and lane is None else lane
        # On a CPU each loss is there when its step is. STAN's two kinds of iterations are timed apart.
        self._block = 1 if stan is not None else block or (1 if self._cuda is None else BLOCK)
        self.iteration = 0
        self._by_itself = self._device_steps()
        self._learn = self._learner()
        self.start = start
        self.moved = False
        self.cost = Cost()
        # Losses of iterations that were submitted and not collected, one or several in each tensor, on the device.
        self._submitted: list[Tensor] = []
        self._stretch = _Stretch(False, time.perf_counter())

    def state(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on, and what the segment took so far."""
        assert not self._submitted, "what was submitted is collected first"
        random = self._random
        if self._running:
            self._account()
            random = torch.get_rng_state()
        return {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "guard": self.guard.state,
            "losses": self.losses.state,
            "random": random,
            "random_cuda": None if self._generator is None else self._generator.get_state(),
            "stan": None if self.handle is None else self.handle.state_dict(),
            "planned": self.stan and self.stan.planned,
            "threads": torch.get_num_threads(),
            "start": self.start,
            "cost": asdict(self.cost),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.iteration = state["iteration"]
        self.model.load_state_dict(state["model"])
        load_state(self.optimizer, state["optimizer"])
        self.guard.restore(state.get("guard", _GUARD_OF_BEFORE))
        # Checkpoints of before kept none.
        self.losses = LossMeans(state.get("losses", {"begin": self.iteration}))
        self._random = state["random"]
        if self._generator is not None and state["random_cuda"] is not None:
            self._generator.set_state(state["random_cuda"])
        if state["start"] == self.start:
            self.cost = Cost.from_plain(state["cost"])
        if self.handle is not None:
            if state["stan"] is None:  # on a GPU it was trained without, where nothing is spared
                self.handle.seek(self.iteration)
            else:
                self.handle.load_state_dict(state["stan"])
        self._by_itself = self._device_steps()
        self._learn = self._learner()

    def train(self, stop: int, stop_early: Callable[[], bool], watch: Callable[[int], None]) -> tuple[bool, bool]:
        """Train up to iteration `stop`; return whether the trial diverged and whether it was interrupted."""
        return drained(self.in_turns(stop, stop_early, watch, None))

    def in_turns(
        self, stop: int, stop_early: Callable[[], bool], watch: Callable[[int], None], pace: int | None
    ) -> Generator[None, None, tuple[bool, bool]]:
        """Train in turns of `pace` iterations, or of a block where that is longer; see `train`. None is one turn."""
        end = None
        while end is None:
            with self._turn():
                given = 0
                while end is None and (pace is None or given < pace):
                    end = self._collected(stop, stop_early, watch)
                    if end is None:
                        given += self.submit(stop)
            if end is None:
                yield
        return end

    def submit(self, stop: int) -> int:
        """Do the iterations of a block, none beyond `stop`, as far as this is the host's work; return how many."""
        if self._stretch.reduced != self._reduced():
            self._account()
        count = min(self._block, stop - self.iteration)
        if self._by_itself is not None:
            self._submitted.append(self._by_itself(self.iteration, count))
        else:
            self._submitted += [self._step(iteration) for iteration in range(self.iteration, self.iteration + count)]
        return count

    def collect(self) -> bool:
        """Wait for what was submitted and take its losses; return whether one tells that the trial diverged.

        Then that is the iteration which it stands at; what came after it in the block does not count.
        """
        losses, self._submitted = self._submitted, []
        for loss in _read(losses):
            if self.guard.diverged(loss):
                return True
            self.losses.take(loss)
            self.iteration += 1
            self.moved = True
            if self._stretch.reduced:
                self.cost.reduced += 1
            else:
                self.cost.exact += 1
        if self.handle is not None:
            self._step_stan(self.handle)
        return False

    def _collected(
        self, stop: int, stop_early: Callable[[], bool], watch: Callable[[int], None]
    ) -> tuple[bool, bool] | None:
        """Take what was submitted; return how the training ended, None where it goes on."""
        if self._submitted:
            if self.collect():
                return True, False
            watch(self.iteration)
            if self.iteration < stop and stop_early():
                return False, True
        return None if self.iteration < stop else (False, False)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Train with the trial's own random state and on its own clock; the caller's state comes back afterwards."""
        own_kernels = plain_pytorch() if self._plain else nullcontext()
        with torch.random.fork_rng([]), self._on_device(), own_kernels, compiling(self._compile):
            torch.set_rng_state(self._random)
            self._stretch = _Stretch(self._reduced(), time.perf_counter())
            self._running = True
            try:
                yield
            finally:
                self._running = False
                self._account()
                self._random = torch.get_rng_state()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Have a CUDA device work in the trial's lane, and draw from its generator."""
        if self._lane is None or self._generator is None:
            yield
            return
        with self._lane.between() if self._own_lane else nullcontext(), drawing_from(self._generator):
            yield

    def _step_stan(self, handle: StanHandle) -> None:
        rate = handle.rate
        handle.step()
        if handle.rate != rate:
            # What was recorded under another rate is not replayed any more, and only so much can be recorded.
            self._learn = self._learner()

    def _step(self, iteration: int) -> Tensor:
        batch = self.batches.at(iteration)
        if self.handle is not None and self.handle.remembers:
            self.handle.visit(batch.ids, batch.inputs)
        self._prepare(iteration)
        return self._learn(batch.inputs, batch.targets).detach()

    def _learner(self) -> Step:
        """Return what does a step: compiled, or replayed from CUDA graphs where the problem allows that."""
        # Without the trial itself: in a circle with it, a device's memory would wait for Python's garbage collection.
        parts = self.model, self._criterion, self.optimizer, self._casting
        if self._compile:
            return compiled_step(*parts, self._device)
        if self._recordable and self._lane is not None and self._by_itself is None:
            return recorded_step(*parts, self._lane)
        return plain_step(*parts)

    def _device_steps(self) -> DeviceSteps | None:
        """Return what makes the steps of whole blocks, where a device can; without the trial itself, as above."""
        feeding = self.batches
        if not (self._recordable and self._lane is not None and self._block > 1):
            return None
        if not isinstance(feeding, Feeding) or not feeding.feeds(self.iteration):
            return None
        step = plain_step(self.model, self._criterion, self.optimizer, self._casting)
        with self._on_device():
            return DeviceSteps(step, feeding, self.optimizer, self._prepare, self._block, InLane(self._lane))

    def _reduced(self) -> bool:
        return self.handle is not None and self.handle.phase is Phase.REDUCED

    def _account(self) -> None:
        """Add the time of the present stretch to the cost and begin the next."""
        reduced, began = self._stretch
        now = time.perf_counter()
        if reduced:
            self.cost.reduced_seconds += now - began
        else:
            self.cost.exact_seconds += now - began
        self._stretch = _Stretch(self._reduced(), now)


def _read(losses: list[Tensor]) -> list[float]:
    """Return all losses as numbers, waiting for their device once."""
    numbers: list[float] = torch.cat([loss.reshape(-1) for loss in losses]).tolist()
    return numbers


def cuda_index(device: str) -> int | None:
    """Return the number of a CUDA device, None for any other device."""
    where = torch.device(device)
    if where.type != "cuda":
        return None
    return torch.cuda.current_device() if where.index is None else where.index
