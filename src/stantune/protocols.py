"""What a search asks of whatever it searches: an objective, its segments and who trains them; values and protocols."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from stantune.arguments import number, shown
from stantune.errors import UsageError
from stantune.outcome import Outcome
from stantune.space import Space

DIRECTIONS = ("minimize", "maximize")
# So much of its bounds' span a value may be beyond them: a mean of float32 is not 1 to the last bit. Where one bound is
# infinite, of the other, or of 1.
ROUNDED = 1e-6


@dataclass(frozen=True)
class Metric:
    """What trials are compared by.

    Attributes:
        name: its key in an outcome's metrics; printed as it is.
        direction: "minimize" or "maximize": what is better.
        unit: printed behind values, "%" for one.
        bounds: the lowest and the highest value that there is. A training that comes to another one has failed, and one
            in a trial table is not believed; one that is only rounded to beyond a bound counts as the bound.

    Raises:
        UsageError: there is no such direction, or unit and bounds are none.
    """

    name: str
    direction: Literal["minimize", "maximize"] = "minimize"
    unit: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise UsageError(
                f"the direction of metric {self.name!r} is {self.direction!r}; give {' or '.join(DIRECTIONS)}"
            )
        if not isinstance(self.unit, str):
            raise UsageError(
                f"the unit of metric {self.name!r} is {shown(self.unit)}, which is no text; give one, or leave it away"
            )
        object.__setattr__(self, "bounds", self._checked_bounds())

    def _checked_bounds(self) -> tuple[float, float]:
        bounds: object = self.bounds
        if isinstance(bounds, tuple | list) and len(bounds) == 2:
            # An infinite one is no finite number, and a bound all the same.
            low, high = (
                each if isinstance(each, float) and math.isinf(each) else number("bounds", each) for each in bounds
            )
            if low < high:
                return low, high
        raise UsageError(
            f"the bounds of metric {self.name!r} are {shown(bounds)}; give its lowest and its highest value, (0, 1) say"
        )

    def within(self, value: float) -> float:
        """Return a value, and the bound for one that is beyond it by no more than float32 rounds."""
        low, high = self.bounds
        nearest = min(max(value, low), high)
        span = high - low if math.isfinite(high - low) else max(abs(nearest), 1.0)
        return nearest if abs(value - nearest) <= ROUNDED * span else value

    def beyond(self, value: float) -> str | None:
        """Say that a value is none that there is, by the bounds; None where it may be."""
        low, high = self.bounds
        return None if low <= value <= high else f"{value:g}, and the {self.name} is from {low:g} to {high:g}"

    def loss(self, value: float) -> float:
        """Return the number that is lower the better the value is; its own inverse."""
        # 0.0 - 0.0 and not -0.0, which would be printed with its sign.
        return value if self.direction == "minimize" else 0.0 - value

    def text(self, value: float | None) -> str:
        """Return a value as people read it, "3.71 %" or "0.8734"; a dash for None."""
        if value is None:
            return "–"
        if self.unit == "%":
            return f"{value:.2f} %"
        return f"{value:.4g} {self.unit}".rstrip()

    @property
    def best_is(self) -> str:
        """Say in a word which value is best: lowest or highest."""
        return "lowest" if self.direction == "minimize" else "highest"


@dataclass(frozen=True)
class Segment:
    """A training from one point to another: all that a Trainer needs, in plain values.

    Attributes:
        trial: the trial's number.
        params: its setting.
        start: where an earlier segment ended, in the objective's unit; 0 begins anew.
        stop: where this one ends.
        seed: of every random choice of the trial.
        checkpoint: the trial's file, or what lies beside it; may be missing.
        bracket: of the search's plan; None for a final training.
        finalist: the rank of the finalist whose final training this is, 0 for the best; None on the way to a rung.
        rates: pairs (from where on, share of the work) for a trainer that approximates; empty: as the objective says.
            A final training is exact.
        length: R in trials, and in a final training its own length, for schedules; None where it is not known.
        points: of a final training, the rungs below R: where it is evaluated on the way.
        best: of a final training, the file for the weights of its best evaluation; a trainer may leave it away.
        validation_share: of the validation set, how much will do to compare it by; a trainer may take more.
    """

    trial: int
    params: Mapping[str, Any]
    start: int
    stop: int
    seed: int
    checkpoint: Path
    bracket: int | None = None
    finalist: int | None = None
    rates: tuple[tuple[int, float], ...] = ()
    length: int | None = None
    points: tuple[int, ...] = ()
    best: Path | None = None
    validation_share: float = 1.0

    @property
    def final(self) -> bool:
        """Tell whether this is a final training, whose weights are kept."""
        return self.finalist is not None

    @property
    def continued(self) -> bool:
        """Tell whether this final training is the trial's own training as it is, which its checkpoint holds."""
        return self.final and self.start > 0


StopEarly = Callable[[], bool]


class Trainer(Protocol):
    """Trains segments, one after the other, in the process that it was made in.

    A segment that was done before, or in part, has the same outcome again: what is in its checkpoint counts.
    """

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """Train and evaluate.

        Args:
            segment: what to train.
            stop_early: asked often; when true the outcome is an interrupted one, its checkpoint kept.
            watch: called with how far it is, as often as the trainer likes.

        Raises:
            DamagedCheckpointError: the checkpoint is of no use: damaged, or further than the segment's end.
            StantuneError: no training can go on here (a full disk, say).
            Exception: this training cannot go on.
        """
        ...


class TakesTurns(Trainer, Protocol):
    """A Trainer whose trainings can take turns with one another in their process; its Objective says `takes_turns`."""

    def turns(
        self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]
    ) -> Generator[None, None, Outcome]:
        """Do what `train` does, giving way from time to time: whoever is then trained, the outcome is the same.

        Where it is closed while it gives way, what is in the checkpoint counts.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Where a trainer works.

    Attributes:
        number: of the worker, from 0.
        threads: of each training; None for as many as there are.
        device: "cpu", "cuda" (the workers take turns on the devices), "cuda:1".
    """

    number: int = 0
    threads: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Conditions:
    """What a search that begins, or goes on, knows of how it will be run; see Objective.prepared.

    Attributes:
        max_resource: R.
        seed: the search's.
        threads: of each training; None for the default, "auto" for what is fastest.
        device: where is trained.
        here: whether this process trains.
        side_by_side: whether several trainings run at the same time.
        begun: the identity of the search that goes on, None for one that begins.
        say: takes a line for the user.
        fixed: parameters that have one value in all settings.
        stop_early: tells one that waits whether to wait no more, be it for a spent budget.
    """

    max_resource: int
    seed: int = 0
    threads: int | Literal["auto"] | None = None
    device: str = "cpu"
    here: bool = True
    side_by_side: bool = False
    begun: Mapping[str, Any] | None = None
    say: Callable[[str], None] = lambda line: None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    stop_early: Callable[[], bool] = lambda: False


class Prepared(NamedTuple):
    """An objective with nothing left to decide, and the number of threads that it trains with."""

    objective: Objective
    threads: int


@runtime_checkable
class Objective(Protocol):
    """What is searched. It can be pickled (by cloudpickle), since worker processes make its trainers.

    `stantune.testing.check_objective` tries whether one does all that is asked of it here.

    It may have more, each asked for by its name: `takes_turns`: its trainers are TakesTurns; `can_continue`: a final
    training may be the trial's own, from its checkpoint; `inexact`: why no training is exact at any rate; `stan`: how
    it is accelerated; `sets`: what of PyTorch's settings its trainings set themselves; `modules`: what its trainer
    takes long to import; `shares_data`, with `load`: data that one process may load for all workers; `memory_told`:
    what to say of memory before trainings take turns.
    """

    @property
    def name(self) -> str:
        """For messages and default directories."""
        ...

    @property
    def space(self) -> Space:
        """The parameters and their ranges."""
        ...

    @property
    def metric(self) -> Metric:
        """What trials are compared by; each outcome that is neither diverged nor interrupted has its value."""
        ...

    @property
    def unit(self) -> str:
        """What the resource counts: "iteration", "epoch"."""
        ...

    @property
    def length(self) -> int | None:
        """The longest training there is, in this unit; None where there is no end."""
        ...

    @property
    def rate(self) -> float | Literal["auto"] | None:
        """The share of the work that its trainings do where the segment says nothing; None for exact ones."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that a result depends on, in plain values; two objectives with equal ones have equal results."""
        ...

    def prepared(self, conditions: Conditions) -> Prepared:
        """Decide what is decided once, when a search begins (fetch data, measure, plan), or as it was decided then.

        Raises StantuneError where the search could not run.
        """
        ...

    def trainer(self, place: Place) -> Trainer:
        """Prepare this process for training and return what trains; raises StantuneError where that cannot be."""
        ...


def compared_value(metric: Metric, metrics: Mapping[str, float]) -> float | None:
    """Return the value that trials are compared by, None where it is missing or not finite: such a trial diverged."""
    value = metrics.get(metric.name)
    return None if value is None or not math.isfinite(value) else float(value)


def best_point(metric: Metric, curve: Mapping[int, Mapping[str, float]]) -> int | None:
    """Return where on a curve {point: what was measured} the compared value is best, of equal ones the last.

    None where there is no value on it.
    """
    found = {point: compared_value(metric, metrics) for point, metrics in curve.items()}
    # Where a training has it and where it is recorded, within the bounds by then, it is the same point.
    losses = [(metric.loss(metric.within(value)), -point) for point, value in found.items() if value is not None]
    return -min(losses)[1] if losses else None
