"""The trial table, row by row: what is known of each trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stantune.search.plan.hyperband import Result


class SegmentFailure(NamedTuple):
    """A training on the way to iteration `stop` that raised, hung or was killed, for this cause."""

    stop: int
    cause: str


@dataclass(frozen=True)
class TrialRow:
    """One row of the trial table.

    `errors` and `costs` have the iterations of a rung as keys: the validation error there (percent), and
    what the caller noted of the segment that led there (`costs` of a diverged trial has its last segment
    too). `diverged_at` is the iteration at which training diverged. `equals` are earlier trials with the
    same setting, of each bracket the first, which no other one goes beyond; `taken` tells of each result
    that was taken over from one of them, which one. `started_from` is the trial of an earlier search whose
    setting this one was given. `failures` are the segments that had to be tried again, in order, and
    `failed` tells why the trial failed for good.
    """

    number: int
    bracket: int
    params: Mapping[str, Any]
    errors: Mapping[int, float] = field(default_factory=dict)
    diverged_at: int | None = None
    costs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    equals: tuple[int, ...] = ()
    taken: Mapping[int, int] = field(default_factory=dict)
    started_from: int | None = None
    failures: tuple[SegmentFailure, ...] = ()
    failed: str | None = None

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
    def reached(self) -> int:
        """Iterations that its results stand for, whoever trained them."""
        return max(self.errors, default=0) if self.diverged_at is None else self.diverged_at
