"""What a segment of a training ends in, and what it took: plain values, to be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Cost:
    """What a segment took; where it was cut and gone on with, all its parts together.

    Attributes:
        exact: exact iterations (refreshes among them).
        exact_seconds: their time.
        reduced: reduced iterations.
        reduced_seconds: their time.
        evaluation_seconds: time of the evaluation.
    """

    exact: int = 0
    exact_seconds: float = 0.0
    reduced: int = 0
    reduced_seconds: float = 0.0
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a segment ended in.

    Attributes:
        iterations: where the trial stands now.
        errors: of each evaluated split, in percent; empty where the trial diverged or was interrupted.
        diverged_at: the iteration whose loss told that the trial is lost, or None.
        interrupted: it was asked to end before its last iteration; the checkpoint holds what was reached.
        cost: what it took.
    """

    iterations: int
    errors: Mapping[str, float]
    diverged_at: int | None
    interrupted: bool
    cost: Cost = field(compare=False)
