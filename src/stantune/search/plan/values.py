"""The plain values that a search passes around: trainings, results, rows of the trial table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from stantune.loss_curve import NO_LOSSES, LossCurve
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment

Ending: TypeAlias = Literal["finished", "dropped", "diverged", "failed"]


@dataclass(frozen=True, order=True)
class Job:
    """Train trial `number` of bracket `bracket` from iteration `start` to `stop`; running it twice is harmless."""

    number: int
    bracket: int
    start: int
    stop: int


@dataclass(frozen=True)
class Final:
    """Train the setting of trial `number`, the finalist of this rank (0 is the best), to `stop`.

    From scratch, or from the trial's own checkpoint, which is there already.
    """

    rank: int
    number: int
    stop: int
    start: int = 0


# What a search has trained: a trial on its way to a rung, or a finalist.
Training: TypeAlias = Job | Final


def training_of(segment: Segment) -> Training:
    """Return the training that a segment is of."""
    if segment.finalist is not None:
        return Final(segment.finalist, segment.trial, segment.stop, segment.start)
    assert segment.bracket is not None, "a training on the way to a rung is of a bracket"
    return Job(segment.trial, segment.bracket, segment.start, segment.stop)


class Result(NamedTuple):
    """What a trial reached in a rung: its error, the lower the better, or None where it diverged or failed."""

    number: int
    error: float | None

    @property
    def diverged(self) -> bool:
        """Tell whether there is no finite error."""
        return self.error is None or not math.isfinite(self.error)


@dataclass(frozen=True)
class TakeOver:
    """Give trial `number` the result that the equal trial `source` has at iteration `stop`; no training needed."""

    number: int
    stop: int
    source: int
    error: float | None
    diverged_at: int | None


class SegmentFailure(NamedTuple):
    """A training on the way to iteration `stop` that raised, hung or was killed, for this cause; see Failure."""

    stop: int
    cause: str
    damaged: bool = False


@dataclass(frozen=True)
class FinalResult:
    """What a final training came to.

    Attributes:
        params: the setting.
        iterations: trained; fewer than asked for where it diverged.
        metrics: what was measured, by name; empty where it diverged.
        diverged_at: the iteration whose loss told that it is lost, None where it did not diverge.
        cost: what it took.
        kept: whether there are weights.
        digest: of their file; None where it is not here, or was not noted.
        curve: see Outcome.
        best_kept: whether there are weights of its best evaluation.
        best_digest: of their file, as `digest` is.
        losses: see Outcome.
    """

    params: Mapping[str, Any]
    iterations: int
    metrics: Mapping[str, float]
    diverged_at: int | None
    cost: Cost
    kept: bool = True
    digest: str | None = None
    curve: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    best_kept: bool = False
    best_digest: str | None = None
    losses: LossCurve = NO_LOSSES

    @classmethod
    def of(cls, params: Mapping[str, Any], outcome: Outcome, cost: Cost) -> FinalResult:
        """Return what a training of this setting came to."""
        curve = {point: dict(metrics) for point, metrics in sorted(outcome.curve.items())}
        return cls(
            dict(params),
            outcome.iterations,
            dict(outcome.metrics),
            outcome.diverged_at,
            cost,
            curve=curve,
            losses=outcome.losses,
        )

    def plain(self) -> dict[str, Any]:
        """Return it in plain values."""
        return {
            **asdict(self),
            "params": dict(self.params),
            "metrics": dict(self.metrics),
            "losses": self.losses.plain(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> FinalResult:
        """Return what `plain` was made of."""
        # Searches of before metrics had names kept the errors of the splits.
        metrics = plain.get("metrics")
        if metrics is None:
            metrics = {f"{split} error": error for split, error in plain["errors"].items()}
        cost = Cost.from_plain(plain["cost"])
        params = with_tuples(plain["params"])
        of_weights = {name: plain[name] for name in ("kept", "digest", "best_kept", "best_digest") if name in plain}
        # JSON has no numbers for keys.
        curve = {int(point): measured for point, measured in plain.get("curve", {}).items()}
        if "losses" in plain:
            of_weights["losses"] = LossCurve.from_plain(plain["losses"])
        return cls(params, plain["iterations"], metrics, plain["diverged_at"], cost, curve=curve, **of_weights)


def setting_key(params: Mapping[str, Any]) -> str:
    """Return what equal settings have in common, and no other two: True is not 1."""
    return json.dumps(params, sort_keys=True)


def with_tuples(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting that was JSON, which has lists for tuples; no parameter has a list."""
    return {name: _tuples(value) for name, value in params.items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class TrialRow:
    """One row of the trial table.

    `errors`, `metrics` and `costs` have the iterations of a rung as keys: what is compared, the lower the better (of a
    metric that is maximised its negative); all that was measured there, where that is more; and what the segment that
    led there cost (`costs` of a diverged trial has its last segment too). `diverged_at` is the iteration at which
    training diverged. `equals` are earlier trials with the same setting, of each bracket the first, which no other one
    goes beyond; `taken` tells of each result that was taken over from one of them, which one. `started_from` is the
    trial of an earlier search whose setting this one was given. `failures` are the segments that had to be tried again,
    in order, and `failed` tells why the trial failed for good. `shares` tells of each result that was measured by a
    part of the validation set, by how much. `losses` are those of the training up to each rung, where it told any, and
    of a diverged trial up to there.
    """

    number: int
    bracket: int
    params: Mapping[str, Any]
    errors: Mapping[int, float] = field(default_factory=dict)
    diverged_at: int | None = None
    costs: Mapping[int, Cost] = field(default_factory=dict)
    equals: tuple[int, ...] = ()
    taken: Mapping[int, int] = field(default_factory=dict)
    started_from: int | None = None
    failures: tuple[SegmentFailure, ...] = ()
    failed: str | None = None
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    shares: Mapping[int, float] = field(default_factory=dict)
    losses: Mapping[int, LossCurve] = field(default_factory=dict)

    def result(self, iterations: int) -> Result | None:
        """Return what the trial reached in the rung that ends there; None while that is not known."""
        if iterations in self.errors:
            return Result(self.number, self.errors[iterations])
        return None if self.diverged_at is None and self.failed is None else Result(self.number, None)

    @property
    def duplicate(self) -> bool:
        """Tell whether all its results were taken over, so that nothing was trained for this row.

        The first results of a trial are taken over or none: where no equal trial has the next one, this one is
        trained for itself, from its first iteration on.
        """
        last = max(self.taken, default=0)
        # A divergence that was taken over is in `taken`, but not in `errors`.
        return (
            bool(self.taken)
            and last >= max(self.errors, default=0)
            and (self.diverged_at is None or last not in self.errors)
        )

    @property
    def trained(self) -> int:
        """Iterations trained for this row."""
        return 0 if self.duplicate else self.reached

    @property
    def loss_curve(self) -> LossCurve:
        """The losses of its training, as far as that has come."""
        return self.losses[max(self.losses)] if self.losses else NO_LOSSES

    @property
    def reached(self) -> int:
        """Iterations that its results stand for, whoever trained them."""
        return max(self.errors, default=0) if self.diverged_at is None else self.diverged_at


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier search.

    Attributes:
        number: its number there.
        params: its setting.
        results: iterations of a rung to the error there, the lower the better, None where the trial had diverged.
    """

    number: int
    params: Mapping[str, Any]
    results: Mapping[int, float | None]

    @property
    def worth(self) -> float:
        """Its error at the most iterations; infinite where it diverged in the end."""
        last = self.results[max(self.results)]
        return math.inf if last is None or None in self.results.values() else last


@dataclass(frozen=True)
class WarmStart:
    """An earlier search, as far as a new one depends on it.

    Attributes:
        path: its directory, for messages and to know it again.
        label: tells it from other searches: two with the same label have the same results.
        trials: those with results whose settings lie in the new space, in the order of their numbers.
        best: those whose settings are tried first, best first.
    """

    path: str
    label: str
    trials: tuple[PastTrial, ...]
    best: tuple[PastTrial, ...]

    def plain(self) -> tuple[dict[str, Any], list[Any]]:
        """Return it in plain values: what is said of the search, and its trials."""
        head = {"path": self.path, "label": self.label, "best": [trial.number for trial in self.best]}
        return head, [[trial.number, trial.params, list(trial.results.items())] for trial in self.trials]

    @classmethod
    def from_plain(cls, head: Mapping[str, Any], trials: Sequence[Any]) -> WarmStart:
        """Return what `plain` was made of."""
        past = {number: PastTrial(number, with_tuples(params), dict(results)) for number, params, results in trials}
        best = tuple(past[number] for number in head["best"])
        return cls(head["path"], head["label"], tuple(past.values()), best)
