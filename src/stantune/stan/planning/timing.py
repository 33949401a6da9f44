"""Times of a model's layers, exact and reduced, on this machine; the model is left as it was."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stantune.kernels.block.follow import Follow
from stantune.kernels.library import plain_pytorch
from stantune.stan.eligible import convolutions, why_not
from stantune.stan.entries.choice import grid_errors
from stantune.stan.entries.entries import PATTERNS, PLANE, Grid, Pattern, along_line, too_small
from stantune.stan.layers.conv2d import StanConv2d, has_native_form
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.fusion import follows_in, may_become_native, natively
from stantune.stan.planning.example import (
    Example,
    Loss,
    device_of,
    differentiate,
    no_backward,
    require_alone,
    require_weights,
)
from stantune.stan.untouched import untouched

Clock = Callable[[], float]

# An iteration that takes less is found cold behind the layers' times: it is done once more, untimed, before.
COLD = 0.05
# What a one-dimensional layer uses; the other patterns become one of these there.
ON_A_LINE = ("columns", "quarter")


class PatternTimes(NamedTuple):
    """What one pattern brings in one layer.

    Attributes:
        name: the pattern's, in `entries.PATTERNS`.
        t_i: seconds that a reduced iteration saves in the layer's forward pass, the fill included; may be negative.
        t_j: the same of its backward pass, the fill's adjoint included.
        error: ||Y - fill(Y)|| / ||Y|| on the example, the mean over the pattern's offsets.
    """

    name: str
    t_i: float
    t_j: float
    error: float

    @property
    def saved(self) -> float:
        """t_i + t_j, seconds of a reduced iteration."""
        return self.t_i + self.t_j


class LayerTimes(NamedTuple):
    """The five times of one layer, in seconds of one iteration: all its calls together, if it is used repeatedly.

    Attributes:
        name: the layer's first name in the model.
        t_f: its exact forward pass as it is under STAN: native where it can be, then with the ReLU and the pooling that
            are done with it.
        t_b: its exact backward pass; without the input's gradient where the iteration needs none (a first layer).
        t_e: measuring the error of all its patterns in a refresh.
        patterns: its candidates with t_i and t_j; none where it cannot be accelerated.
        line: whether it is one-dimensional.
        reason: why it has no candidates, "" if it has.
    """

    name: str
    t_f: float = 0.0
    t_b: float = 0.0
    t_e: float = 0.0
    patterns: tuple[PatternTimes, ...] = ()
    line: bool = False
    reason: str = ""

    @property
    def exact(self) -> float:
        """t_f + t_b, seconds of an exact iteration."""
        return self.t_f + self.t_b

    def among(self, patterns: Sequence[Pattern]) -> tuple[PatternTimes, ...]:
        """Return the times of those of the 2-D patterns that it can use, each once."""
        wanted = along_line(tuple(patterns)) if self.line else patterns
        return tuple(candidate for candidate in self.patterns if PATTERNS[candidate.name] in wanted)


class ModelTimes(NamedTuple):
    """What `measure` found.

    Attributes:
        layers: every convolution, in the model's order.
        step_seconds: a whole exact iteration.
        rounds: how often each time was taken.
        native_seconds: a whole exact iteration of the accelerated model, whose convolutions, batch norms and poolings
            run natively where they can; None where none can, and it is `step_seconds`.
    """

    layers: tuple[LayerTimes, ...]
    step_seconds: float
    rounds: int
    native_seconds: float | None = None

    @property
    def exact_seconds(self) -> float:
        """What an exact iteration takes under STAN."""
        return self.step_seconds if self.native_seconds is None else self.native_seconds


def measure(
    model: nn.Module,
    wanted: tuple[str, ...],
    example: Example,
    *,
    loss: Loss | None = None,
    step: Callable[[], object] | None = None,
    native: bool = True,
    budget: float = 3.0,
    clock: Clock | None = None,
) -> ModelTimes:
    """Time the model's convolutions, exact and with each pattern, and a whole exact iteration.

    Everything is taken in turns, round by round, so that a machine that slows down slows all of it down alike. The
    first round warms up. Of each time the mean of the fastest three quarters counts: what disturbs a measurement only
    ever adds to it, and of so few rounds the rest must all count. (Predictions from six rounds of `cq` on a busy
    machine were 2.7 % off, root mean square; 3.1 % from lower quartiles, 4.3 % from minima.)

    The model, the example and the random states are afterwards what they were, see `untouched`.

    Args:
        model: in any mode; it is timed in training mode.
        wanted: shell patterns of the layers' names; others are reported, not timed.
        example: what the model is called with in a training iteration, see `example.called`; on its device and in the
            memory format of the training.
        loss: of the model's output; by default the sum of squares of all tensors in it.
        step: performs a whole exact training iteration, as the training does it. If that trains this very model, the
            errors are those after a few iterations, and nearer to what the run will meet. What it changes beside the
            model, such as the optimizer's state, is the caller's to put back.
            Without it an iteration is the model's forward and backward pass under `loss`.
        native: whether layers that compute every entry are to run natively.
        budget: seconds of `clock` after which no further round begins; there is one beside the warm-up in any case. A
            round takes about three exact iterations.
        clock: for tests; by default the one that suits the device, see `clock_for`.

    Raises:
        UsageError: the example holds no sample, or the model or `loss` cannot be computed or differentiated on it.
    """
    clock = clock or clock_for(device_of(example))
    require_weights(model)
    require_alone(model)
    began = clock()
    found = convolutions(model)
    reasons = {name: why_not(name, module, "layers", wanted) for name, module in found.items()}
    eligible = {name: module for name, module in found.items() if not reasons[name]}
    steps: list[float] = []
    native_steps: list[float] = []
    rounds = 0
    passes = partial(differentiate, model, example, loss)
    iteration = passes if step is None else step
    with untouched(model, example), torch.enable_grad():
        if not model.training:
            model.train()
        differentiated: list[bool] = []
        calls = _capture(model, eligible, lambda: differentiated.append(passes()))
        if not all(differentiated) and any(call.graded for each in calls.values() for call in each):
            raise no_backward(loss)
        follows = follows_in(model)
        benches = [_Bench(name, eligible[name], calls[name], follows.get(eligible[name])) for name in eligible]
        native = native and any(may_become_native(module, follows) for module in model.modules())
        while rounds < 2 or (benches and clock() - began < budget):
            with plain_pytorch():
                steps.append(_timed(clock, iteration, steps))
            if native:
                with natively(model):
                    native_steps.append(_timed(clock, iteration, native_steps))
            for bench in benches:
                bench.round(rounds, clock)
            rounds += 1
        if step is not None:
            calls = _capture(model, eligible, passes)
        timed = {bench.name: bench.times(calls[bench.name]) for bench in benches}
    layers = tuple(timed.get(name, LayerTimes(name, reason=reason)) for name, reason in reasons.items())
    return ModelTimes(layers, typical(steps), rounds - 1, typical(native_steps) if native_steps else None)


def _timed(clock: Clock, work: Callable[[], object], before: Sequence[float]) -> float:
    """Return the seconds that an iteration takes in the middle of others, if it took as long `before`."""
    if before and before[-1] < COLD:
        work()
    began = clock()
    work()
    return clock() - began


def clock_for(device: torch.device) -> Clock:
    """Return the clock that tells what work on the device takes.

    One thread's work is told by its own processor time, which leaves out what other processes take of it; that of
    several threads, or where that clock is coarse (Windows), by the wall clock; an accelerator's by the wall clock
    after it has finished.
    """
    if device.type != "cpu":
        accelerator = getattr(torch, device.type)

        def finished() -> float:
            accelerator.synchronize()
            return time.perf_counter()

        return finished
    if torch.get_num_threads() == 1 and time.get_clock_info("thread_time").resolution < 1e-6:
        return time.thread_time
    return time.perf_counter


@dataclass
class _Call:
    """One forward pass of a layer.

    Attributes:
        input: without its graph.
        differentiated: whether the input's gradient is needed.
        output: without its graph; a copy, since the next layer may write to it, as nn.ReLU(inplace=True) does.
        graded: whether gradients were recorded at all.
        gradient: the output's, None where it has none.
    """

    input: Tensor
    differentiated: bool
    output: Tensor
    graded: bool
    gradient: Tensor | None = None

    def keep(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach()


def _capture(
    model: nn.Module, layers: Mapping[str, nn.Module], iteration: Callable[[], object]
) -> dict[str, list[_Call]]:
    """Return the calls of each layer in one iteration of the model."""
    calls: dict[str, list[_Call]] = {name: [] for name in layers}

    def capture(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            input: Tensor = arguments[0] if arguments else named["input"]
            call = _Call(input.detach(), input.requires_grad, output.detach().clone(), torch.is_grad_enabled())
            calls[name].append(call)
            if output.requires_grad:
                output.register_hook(call.keep)  # type: ignore[no-untyped-call]

        return hook

    handles = [
        module.register_forward_hook(capture(name), prepend=True, with_kwargs=True) for name, module in layers.items()
    ]
    try:
        iteration()
    finally:
        for handle in handles:
            handle.remove()
    return calls


@dataclass
class _Sample:
    """Seconds of forward and of backward passes, one of each a round."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)


class _Bench:
    """Takes the times of one layer, on a copy that shares nothing but the values of its parameters."""

    def __init__(self, name: str, layer: nn.Module, calls: list[_Call], follow: Follow | None) -> None:
        self.name = name
        self.follow = follow or Follow()
        self.native = has_native_form(layer)
        self.line = isinstance(layer, nn.Conv1d)
        self.calls = calls
        sizes = [_plane(call.output, self.line).shape[-2:] for call in calls]
        self.patterns = {
            name: PATTERNS[name]
            for name in (ON_A_LINE if self.line else PLANE)
            if all(Grid(PATTERNS[name], 0, 0).fills(*size) for size in sizes)
        }
        self.small = min(sizes, default=(0, 0), key=math.prod)
        self.exact = _Sample()
        self.reduced = {name: _Sample() for name in self.patterns}
        self.measuring: list[float] = []
        # Called by its forward method, so that the user's hooks stay out; gradients are asked for, not accumulated.
        self.copy: Any = copy.copy(layer)
        self.copy.__class__ = StanConv1d if self.line else StanConv2d
        # Pruning and norms of weights leave a tensor where a parameter was, made of others before each pass.
        values = {name: getattr(layer, name) for name in ("weight", "bias")}
        self.parameters = {
            name: None if value is None else value.detach().requires_grad_(value.requires_grad)
            for name, value in values.items()
        }
        self.copy.__dict__ = {key: value for key, value in self.copy.__dict__.items() if key not in values}
        self.copy.__dict__["_parameters"] = self.parameters

    def round(self, number: int, clock: Clock) -> None:
        """Take every time once; `number` decides the patterns' offsets."""
        if not self.calls or not self.patterns:
            return
        grids = [
            Grid(pattern, number % pattern.rows, number // pattern.rows % pattern.columns)
            for pattern in self.patterns.values()
        ]
        self._take(None, self.exact, clock)
        for sample, grid in zip(self.reduced.values(), grids, strict=True):
            self._take(grid, sample, clock)
        began = clock()
        for call in self.calls:
            grid_errors(_plane(call.output, self.line), grids)
        self.measuring.append(clock() - began)

    def _take(self, grid: Grid | None, sample: _Sample, clock: Clock) -> None:
        forward = backward = 0.0
        self.copy.grid = grid
        for call in self.calls:
            input = call.input.detach().requires_grad_(call.differentiated)
            targets = [each for each in (*self.parameters.values(), input) if each is not None and each.requires_grad]
            began = clock()
            output = (
                self.copy.followed(input, self.follow) if self.native and input.dim() == 4 else self.copy.forward(input)
            )
            done = passed = clock()
            if targets and call.gradient is not None:
                # What the gradient of a pooled output is does not matter to the time that it takes.
                gradient = call.gradient if output.shape == call.gradient.shape else torch.ones_like(output)
                passed = clock()
                torch.autograd.grad(output, targets, gradient)
            forward += done - began
            backward += clock() - passed
        sample.forward.append(forward)
        sample.backward.append(backward)

    def times(self, calls: Sequence[_Call]) -> LayerTimes:
        """Return the typical times of all rounds, and the errors on the outputs of `calls`."""
        if not self.calls:
            return LayerTimes(self.name, line=self.line, reason="the example does not pass through it")
        if not self.patterns:
            return LayerTimes(self.name, line=self.line, reason=too_small(*self.small))
        if not any(call.graded for call in self.calls):
            return LayerTimes(
                self.name,
                line=self.line,
                reason="it is computed without gradients (torch.no_grad, a reentrant checkpoint), and so exactly",
            )
        t_f, t_b = typical(self.exact.forward), typical(self.exact.backward)
        patterns = tuple(
            PatternTimes(
                name,
                t_f - typical(sample.forward),
                t_b - typical(sample.backward),
                statistics.fmean(self._error(call, self.patterns[name]) for call in calls),
            )
            for name, sample in self.reduced.items()
        )
        return LayerTimes(self.name, t_f, t_b, typical(self.measuring), patterns, self.line)

    def _error(self, call: _Call, pattern: Pattern) -> float:
        """Return the mean over the pattern's offsets."""
        grids = [Grid(pattern, top, left) for top in range(pattern.rows) for left in range(pattern.columns)]
        return statistics.fmean(grid_errors(_plane(call.output, self.line), grids))


def _plane(output: Tensor, line: bool) -> Tensor:
    """Return a layer's output as (B, C, H, W), whether it is a line's, or of a single sample, or both."""
    output = output.unsqueeze(-2) if line else output
    return output if output.dim() == 4 else output.unsqueeze(0)


def typical(seconds: Sequence[float]) -> float:
    """Return the mean of the fastest three quarters of all rounds but the first, which warms up."""
    taken = sorted(seconds[1:])
    return statistics.fmean(taken[: len(taken) - len(taken) // 4])
