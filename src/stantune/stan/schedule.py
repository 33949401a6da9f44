"""Which iterations are exact, refreshing or reduced: pure integers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stantune.errors import UsageError


class Phase(StrEnum):
    """What an iteration does: EXACT computes everything, REFRESH does so and renews E, REDUCED computes E alone."""

    EXACT = "exact"
    REFRESH = "refresh"
    REDUCED = "reduced"


class PhaseCounts(NamedTuple):
    """Iterations of each phase in a range."""

    exact: int
    refresh: int
    reduced: int


@dataclass(frozen=True)
class Schedule:
    """The cycle of the source: p_t exact iterations, then one refresh and Z reduced ones in turn, then a tail.

    Attributes:
        pretrain: p_t, exact iterations at the start.
        period: Z, reduced iterations after each refresh; None for no refresh at all (every iteration is reduced).
        tail: exact iterations at the end (ours; the source has none).
        total: N, iterations of the whole run; needed for a tail alone.
        unit: iterations that count as one in a cycle: 1, or an epoch's where the fill is what a sample had at its last
            visit. Cycles begin at multiples of it, so that each unit visits each sample once.

    Raises:
        UsageError: a negative number, or a tail without a total.
    """

    pretrain: int = 0
    period: int | None = 1
    tail: int = 0
    total: int | None = None
    unit: int = 1

    def __post_init__(self) -> None:
        if self.unit < 1:
            raise UsageError(f"a cycle's unit of {self.unit} iterations is too short; give at least 1")
        for name in ("pretrain", "period", "tail", "total"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name}={value} is negative; give a number of iterations, 0 or more")
        if self.tail and self.total is None:
            raise UsageError(f"tail={self.tail} counts from the end of the run; say how long it is with iterations=N")

    @property
    def first(self) -> int:
        """The iteration that the first cycle begins with: p_t, rounded up to a whole unit."""
        return -(-self.pretrain // self.unit) * self.unit

    def phase(self, iteration: int) -> Phase:
        """Return the phase of `iteration`, counted from 0."""
        if iteration < self.first or (self.total is not None and iteration >= self.total - self.tail):
            return Phase.EXACT
        if self.period is None:
            return Phase.REDUCED
        unit = (iteration - self.first) // self.unit
        return Phase.REFRESH if unit % (self.period + 1) == 0 else Phase.REDUCED

    def counts(self, start: int, stop: int) -> PhaseCounts:
        """Return how many of the iterations `start` … `stop - 1` fall into each phase, in constant time."""
        end = stop if self.total is None else max(min(stop, self.total - self.tail), start)
        begin = min(max(start, self.first), end)
        cycled = end - begin
        refresh = self._refreshes(end) - self._refreshes(begin) if cycled else 0
        return PhaseCounts(max(stop - start, 0) - cycled, refresh, cycled - refresh)

    def _refreshes(self, iteration: int) -> int:
        """Return how many refreshes lie in the cycles before `iteration`, as if there were no tail."""
        if self.period is None:
            return 0
        whole, rest = divmod(iteration - self.first, (self.period + 1) * self.unit)
        return whole * self.unit + min(rest, self.unit)
