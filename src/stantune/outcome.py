"""What a segment of a training ends in, and what it took: plain values, to be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stantune.loss_curve import NO_LOSSES, LossCurve


@dataclass
class Cost:
    """What a segment took; where it was cut and gone on with, all its parts together.

    Attributes:
        exact: exact iterations (refreshes among them).
        exact_seconds: their time.
        reduced: reduced iterations.
        reduced_seconds: their time.
        evaluation_seconds: time of the evaluation.
        coordination_seconds: time of everything else: sampling, trial table, checkpoints, waiting. A search's loop
            notes it; a training knows nothing of it.
    """

    exact: int = 0
    exact_seconds: float = 0.0
    reduced: int = 0
    reduced_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    coordination_seconds: float = 0.0

    @property
    def iterations(self) -> int:
        """Iterations of both kinds."""
        return self.exact + self.reduced

    @property
    def training_seconds(self) -> float:
        """Their time."""
        return self.exact_seconds + self.reduced_seconds

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Cost:
        """Return what `dataclasses.asdict` made plain; what is not in it is 0, what it has beyond is left out."""
        return cls(**{name: plain[name] for name in cls.__dataclass_fields__ if name in plain})


def total(costs: list[Cost]) -> Cost:
    """Add up costs, number by number."""
    return Cost(*(sum(getattr(cost, name) for cost in costs) for name in Cost.__dataclass_fields__))


@dataclass(frozen=True)
class Outcome:
    """What a segment ended in.

    Attributes:
        iterations: where the trial stands now, in the objective's unit: at the segment's end, unless it diverged or was
            interrupted.
        metrics: what was measured at the end, by its name; empty where the trial diverged or was interrupted.
        diverged_at: the iteration whose loss told that the trial is lost, or None.
        interrupted: it was asked to end before its last iteration; the checkpoint holds what was reached.
        cost: what it took.
        curve: of a final training whose best weights are kept (Segment.best): what was measured at each point on the
            way, and at its end; empty of every other one.
        losses: its training losses, from its beginning on; without a point where nobody told any.
        validation_share: by how much of the validation set the metrics were measured.
    """

    iterations: int
    metrics: Mapping[str, float]
    diverged_at: int | None
    interrupted: bool
    cost: Cost = field(compare=False)
    curve: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    losses: LossCurve = field(default=NO_LOSSES, kw_only=True)
    validation_share: float = 1.0
