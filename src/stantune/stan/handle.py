"""StanHandle: moves an accelerated model through its schedule, one training iteration after the other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

from stantune.errors import StanWarning, UsageError
from stantune.kernels import library
from stantune.stan.config import Stan
from stantune.stan.entries.choice import Choice, cheapest, grid_errors
from stantune.stan.entries.entries import Grid, Pattern, along_line, draw_grid, too_small
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.linear import StanLinear
from stantune.stan.layers.stan_layer import StanLayer
from stantune.stan.schedule import Phase

if TYPE_CHECKING:
    from stantune.stan.memo.batch_memory import BatchMemory
    from stantune.stan.planning.plan import Plan

# So many training passes of one layer in one iteration are no accumulation of gradients any more.
FORGOTTEN = 200
# So many choices are kept at least for who looks at them: a run of days has millions.
CHOICES = 10_000


class LayerReport(NamedTuple):
    """What became of one layer.

    Attributes:
        name: its first name in the model ("" for the model itself).
        patterns: the grids that its reduced iterations draw or choose from, none where it is left alone.
        reason: why it computes all its entries always, "" where it does not.
        native: whether native kernels compute it in training, on a CPU and in float32.
        top_k: components of its output's gradient that meProp keeps, 0 where its backward pass is the ordinary one.
        unified: whether meProp keeps the same ones for all examples of a batch, and not each example its own.
    """

    name: str
    patterns: tuple[Pattern, ...]
    reason: str
    native: bool = False
    top_k: int = 0
    unified: bool = False


class StanHandle:
    """Moves an accelerated model through its schedule; `step()` once per training iteration.

    Attributes:
        stan: the settings, in numbers also where "auto" was asked for.
        plan: what the planner measured and decided, None where it was not asked.
        iteration: the training iteration that the next forward pass belongs to, from 0.
        rate: the share of the entries that a reduced iteration computes now; another one later where `stan` says so.
        memory_bytes: what the memo fill holds; 0 without it.
        norms: how many batch norms native kernels do in training where they are faster.
        pools: how many maximum and average poolings they do where they are faster.
        history: what each layer chose at each refresh since the handle was made, where patterns are chosen: the last
            CHOICES of them, and at most a tenth more.
    """

    def __init__(
        self,
        stan: Stan,
        layers: Sequence[tuple[str, StanConv1d | StanConv2d | StanLinear]],
        report: tuple[LayerReport, ...],
        memory: BatchMemory | None = None,
        plan: Plan | None = None,
        norms: int = 0,
        pools: int = 0,
    ) -> None:
        """Take over layers that `accelerate_` has just changed, with their names."""
        self.stan = stan
        self._report = report
        self.plan = plan
        self.norms = norms
        self.pools = pools
        self.iteration = 0
        self.rate = stan.rate_at(0)
        self.history: list[Choice] = []
        self.memory_bytes = 0 if memory is None else memory.bytes
        self._layers = [layer for _, layer in layers]
        self._names = [name for name, _ in layers]
        rates: set[float | Literal["auto"]] = {self.rate, *(each.rate for each in stan.rates)}
        self._patterns = {rate: self._patterns_at(rate) for rate in rates}
        self._chosen: list[Pattern | None] = [None] * len(layers)
        # Of each layer in this iteration: the largest of its outputs' errors.
        self._errors: list[dict[Pattern, float]] = [{} for _ in layers]
        self._sizes: list[dict[bool, tuple[int, int]]] = [{} for _ in layers]
        for layer, sizes in zip(self._layers, self._sizes, strict=True):
            layer.sizes = sizes
        self._memory = memory
        self._kept_sum = 0.0
        self._kept_count = 0
        self._passes = 0
        self._warned: set[str] = set()
        if self._layers:
            self._layers[0].passed = self._passed
        if memory is not None:
            for place, layer in enumerate(self._layers):
                layer.memory = memory.of(place, layer)
        self.seek(0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_errors" in state:
            return
        # The pickle of an earlier version, whose layers do not show that they are this handle's own.
        self._errors = [{} for _ in self._layers]
        for layer, sizes in zip(self._layers, self._sizes, strict=True):
            if isinstance(layer, StanLayer):
                layer.__dict__.setdefault("sizes", sizes)

    @property
    def report(self) -> tuple[LayerReport, ...]:
        """What became of each convolution, in the model's order, and of each nn.Linear where those were asked for.

        Whether a layer's output is large enough to be filled is known after its first reduced iteration, or before it
        where `accelerate_` was given an example.
        """
        sizes = {name: self._whole(place) for place, name in enumerate(self._names)}
        return tuple(
            line if size is None else line._replace(patterns=(), reason=too_small(*size))
            for line, size in ((line, sizes.get(line.name)) for line in self._report)
        )

    def __repr__(self) -> str:
        """Return what was made of the model, in a line."""
        lines = self.report
        changed = sum(bool(line.patterns or line.native or line.top_k) for line in lines)
        others = [
            f"{number} {kind}{'s' * (number > 1)}"
            for number, kind in ((self.norms, "batch norm"), (self.pools, "pooling"))
            if number
        ]
        if not changed and not others:
            return f"<StanHandle: none of {len(lines)} layers changed>"
        what = " and ".join([f"{changed} of {len(lines)} layers", *others])
        return f"<StanHandle: {what} changed; on a CPU: {self.kernels}>"

    @property
    def kernels(self) -> str:
        """What does the work on a CPU: which native kernels, or why none."""
        found = library.kernels()
        return f"native kernels, {found.form}" if found.library is not None else f"plain PyTorch ({found.reason})"

    @property
    def phase(self) -> Phase:
        """The phase of the present iteration; exact where no layer was changed, and where the rate is 1."""
        return Phase.EXACT if not self._layers or self.rate == 1 else self.stan.schedule.phase(self.iteration)

    @property
    def kept(self) -> float:
        """Mean share of the entries that the accelerated layers computed in reduced iterations so far; 1 before any."""
        return self._kept_sum / self._kept_count if self._kept_count else 1.0

    @property
    def remembers(self) -> bool:
        """Whether `visit` is needed: the memo fill, and layers that have it."""
        return self._memory is not None

    def step(self) -> None:
        """Go on to the next iteration: call it once per iteration, where a learning-rate scheduler would be."""
        if self.phase is Phase.REDUCED:
            shares = [self._share(place) for place in range(len(self._layers))]
            self._kept_sum += sum(shares) / len(shares)
            self._kept_count += 1
        self.seek(self.iteration + 1)

    def seek(self, iteration: int) -> None:
        """Go to any iteration.

        What the layers then compute is a pure function of it and of the seed; where patterns are chosen, of what was
        chosen last under the same rate too, and under the memo fill of what is remembered.
        """
        if self.stan.rate_at(iteration) != self.rate:
            self.rate = self.stan.rate_at(iteration)
            self._chosen = [None] * len(self._layers)
        self.iteration = iteration
        self._passes = 0
        phase = self.phase
        if self._memory is not None:
            self._memory.begin(iteration)
        for place, layer in enumerate(self._layers):
            if not self._owns(place):
                continue
            layer.go_on()
            self._errors[place] = {}
            if self._memory is not None:
                if layer.memory is None:  # handle and model were copied together
                    layer.memory = self._memory.of(place, layer)
                continue
            layer.grid = self._grid(place) if phase is Phase.REDUCED else None
            layer.watch = partial(self._choose, place) if phase is Phase.REFRESH and self.stan.chooses else None

    def note(self, shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> None:
        """Take down of layers, by name, what shapes one sample's outputs have: (C, H, W) each, (C, L) of a line."""
        for place, name in enumerate(self._names):
            for shape in shapes.get(name, ()):
                height, width = (1, *shape[1:])[-2:]
                self._fitting(place, (height, width))

    def visit(self, ids: Tensor, inputs: Tensor | None = None) -> None:
        """Say which samples the next forward pass is of; needed under the memo fill alone, once per iteration.

        Args:
            ids: of the batch's samples, (B,), integers from 0 to samples - 1, each once.
            inputs: the batch, (B, ...): where it is given, a sample that has changed since its last visit is refused.

        Raises:
            UsageError: ids that are missing, repeated or out of range, or a sample that has changed.
        """
        if self._memory is not None:
            self._memory.visit(ids, inputs)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs; under the memo fill that is all that is remembered, too."""
        state: dict[str, Any] = {"iteration": self.iteration, "kept": [self._kept_sum, self._kept_count]}
        if self.stan.chooses:
            # Under a rate of 1 nothing is chosen.
            chosen = [] if self.rate == 1 else self._chosen
            state["chosen"] = [None if pattern is None else list(pattern) for pattern in chosen]
        if self._memory is not None:
            state["memory"] = self._memory.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the run that gave `state` was.

        Raises:
            UsageError: it is another model's or was made with other settings.
        """
        if ("chosen" in state) != self.stan.chooses or ("memory" in state) != (self._memory is not None):
            raise UsageError("this state of STAN was made with other settings; give the Stan that it was made with")
        rate = self.stan.rate_at(state["iteration"])
        if self.stan.chooses and rate != 1:
            if len(state["chosen"]) != len(self._layers):
                raise UsageError(
                    f"this state of STAN is of {len(state['chosen'])} layers, and the model has {len(self._layers)}"
                )
            self._chosen = [None if pattern is None else Pattern(*pattern) for pattern in state["chosen"]]
            self.rate = rate
        if self._memory is not None:
            self._memory.load_state_dict(state["memory"])
        # States of before say nothing of it.
        self._kept_sum, self._kept_count = state.get("kept", (0.0, 0))
        self.seek(state["iteration"])

    def _patterns_at(self, rate: float | Literal["auto"]) -> list[tuple[Pattern, ...]]:
        """Return what each layer draws or chooses from under one rate."""
        found = [self.stan.patterns_of(name, rate) for name in self._names]
        return [
            patterns if isinstance(layer, StanConv2d) else along_line(patterns)
            for layer, patterns in zip(self._layers, found, strict=True)
        ]

    def _owns(self, place: int) -> bool:
        """Tell whether a layer is still this handle's: not restored meanwhile, nor accelerated anew after that."""
        return self._layers[place].__dict__.get("sizes") is self._sizes[place]

    def _share(self, place: int) -> float:
        layer = self._layers[place]
        # "reduced" is what may have been; of a layer that has not run nothing is known.
        passes = layer.__dict__.get("last")
        if not self._owns(place) or (passes and "reduced" not in passes.values()):
            return 1.0
        if self._memory is not None:
            return float(self.rate)
        grid = layer.grid
        return grid.pattern.rate if isinstance(grid, Grid) and self._whole(place) is None else 1.0

    def _whole(self, place: int) -> tuple[int, int] | None:
        """Return (H_out, W_out) of a layer none of whose outputs was large enough to be filled; None of others."""
        sizes = self._sizes[place]
        return None if True in sizes else sizes.get(False)

    def _fitting(self, place: int, size: tuple[int, int]) -> list[Pattern]:
        """Return which of a layer's patterns an output of this size, (H_out, W_out), can be filled under; note it."""
        patterns = self._patterns[self.rate][place]
        fitting = [pattern for pattern in patterns if Grid(pattern, 0, 0).fills(*size)]
        if patterns:
            self._sizes[place][bool(fitting)] = size
        return fitting

    def _grid(self, place: int) -> Grid | None:
        """Return the grid of a reduced iteration, None where the layer computes every entry."""
        patterns = self._patterns[self.rate][place]
        if self.stan.chooses:
            chosen = self._chosen[place]
            patterns = () if chosen is None else (chosen,)
        return self._draw(patterns, place) if patterns else None

    def _draw(self, patterns: tuple[Pattern, ...], place: int) -> Grid:
        return draw_grid(patterns, self.stan.seed, self.iteration, place, self.stan.offset_sets)

    def _choose(self, place: int, exact: Tensor) -> None:
        if not exact.numel():
            return  # it tells nothing
        candidates = self._fitting(place, (exact.shape[-2], exact.shape[-1]))
        grids = [self._draw((pattern,), place) for pattern in candidates]
        largest = self._errors[place]
        for pattern, error in zip(candidates, grid_errors(exact, grids), strict=True):
            # What is chosen is for all outputs of an iteration, and none of them may have a larger error.
            largest[pattern] = max(error, largest.get(pattern, 0.0), key=lambda each: (math.isnan(each), each))
        errors = largest.copy()  # another thread may add its own meanwhile
        if any(math.isnan(error) for error in errors.values()):
            self._say(
                f"the output of {self._names[place] or 'the model'} is not finite at the refresh of iteration "
                f"{self.iteration}; the layer computes every entry until the next one"
            )
        if errors:  # else all outputs so far are too small, and are computed whole in any case
            self._chosen[place] = cheapest(errors, self.stan.allowed_error)
        self._note_choice(Choice(self.iteration, self._names[place], errors, self._chosen[place]))

    def _note_choice(self, choice: Choice) -> None:
        """Keep a choice, in place of what the same layer chose by fewer outputs of the same iteration."""
        for place in reversed(range(len(self.history))):
            past = self.history[place]
            if past.iteration != choice.iteration:
                break
            if past.layer == choice.layer:
                self.history[place] = choice
                return
        self.history.append(choice)
        if len(self.history) > CHOICES + CHOICES // 10:  # not at each choice, since all that are kept move
            del self.history[:-CHOICES]

    def _passed(self) -> None:
        self._passes += 1
        if self._passes == FORGOTTEN:
            self._say(
                f"{FORGOTTEN} training passes of a layer in iteration {self.iteration}: if these are of no recurrence, "
                "line search or accumulation, step() seems forgotten; call it once per iteration, or every pass uses "
                "the same entries"
            )

    def _say(self, sentence: str) -> None:
        """Warn, once of each kind."""
        kind = sentence.split()[0]
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(sentence, StanWarning, stacklevel=2)
