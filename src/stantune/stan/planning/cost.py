"""The speed-up equation: what a schedule makes of the times of one iteration. Pure numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

from stantune.stan.schedule import PhaseCounts, Schedule


class IterationTimes(NamedTuple):
    """Times of one iteration in the source's terms, all in the same unit, and t_j, which is ours.

    Attributes:
        exact: t_f + t_b, forward and backward pass of an exact iteration; with whatever else an iteration does (data,
            optimizer), if the speed-up of the whole run is asked for.
        t_e: what a refresh takes longer than an exact iteration, since it computes E.
        t_i: what a reduced iteration saves in the forward pass.
        t_j: what it saves in the backward pass, which shrinks as the forward pass does.
    """

    exact: float
    t_e: float
    t_i: float
    t_j: float

    @property
    def refresh(self) -> float:
        """Time of a refresh iteration: t_f + t_b + t_e."""
        return self.exact + self.t_e

    @property
    def reduced(self) -> float:
        """Time of a reduced iteration: (t_f - t_i) + (t_b - t_j)."""
        return self.exact - (self.t_i + self.t_j)

    def check(self) -> None:
        """Raise ValueError where the times contradict each other."""
        if not all(math.isfinite(value) for value in self) or self.exact <= 0 or self.t_e < 0:
            raise ValueError(f"an exact iteration of {self.exact} and t_e of {self.t_e} are no times")
        if self.reduced <= 0:
            raise ValueError(f"an iteration of {self.exact} cannot save {self.t_i + self.t_j}")


def run_time(times: IterationTimes, schedule: Schedule, iterations: int) -> float:
    """Return the time of a whole run, in the unit of `times`.

    The source's sum: p_t (t_f + t_b) of the pre-training interval, (N - p_t)/(Z + 1) · (t_f + t_b + t_e) of the
    refreshes and (N - p_t) · Z/(Z + 1) · (t_b + t_f - t_i) of the reduced iterations, with t_j beside t_i, and with the
    schedule's own counts for (N - p_t)/(Z + 1): an incomplete last cycle, a tail and Z = None are exact.

    Args:
        times: of one iteration.
        schedule: p_t, Z and the tail.
        iterations: N.

    Raises:
        ValueError: times that contradict each other, or a negative N.
    """
    times.check()
    if iterations < 0:
        raise ValueError(f"a run cannot have {iterations} iterations")
    return _time(times, schedule.counts(0, iterations))


def speedup(times: IterationTimes, schedule: Schedule, iterations: int | None) -> float:
    """Return how many times faster than exact training a run is: the source's speed-up equation, extended with t_j.

        speed-up = N (t_f + t_b) / ( N (t_f + t_b) - (N - p_t)/(Z + 1) · (Z (t_i + t_j) - t_e) )

    Args:
        times: of one iteration.
        schedule: p_t, Z and the tail.
        iterations: N; None for the limit of a long run, in which p_t and the tail do not count.

    Raises:
        ValueError: times that contradict each other, or a negative N.
    """
    if iterations is None:
        times.check()
        period = schedule.period
        cycle = PhaseCounts(0, 0, 1) if period is None else PhaseCounts(0, 1, period)
        return sum(cycle) * times.exact / _time(times, cycle)
    taken = run_time(times, schedule, iterations)
    return iterations * times.exact / taken if iterations else 1.0


def pays(period: int | None, t_i: float, t_j: float, t_e: float) -> bool:
    """Tell whether a cycle saves more than its refresh costs: Z (t_i + t_j) > t_e; without refreshes t_i + t_j > 0.

    Args:
        period: Z.
        t_i: saved in the forward pass of a reduced iteration.
        t_j: saved in its backward pass (0 in the source).
        t_e: what a refresh costs.
    """
    return t_i + t_j > 0 if period is None else period * (t_i + t_j) > t_e


def _time(times: IterationTimes, counts: PhaseCounts) -> float:
    return counts.exact * times.exact + counts.refresh * times.refresh + counts.reduced * times.reduced
