"""How long a search of a problem will take, from a few timed iterations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from stantune.images.objective import ProblemObjective
from stantune.outcome import Cost
from stantune.search.estimate import seconds_of
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan
from stantune.stan.schedule import Schedule
from stantune.training.train import run

WARM_UP = 4
TIMED = 16


def estimate_seconds(objective: ProblemObjective, settings: SearchSettings, workers: int = 1) -> float:
    """Return the seconds of a whole search if no trial diverges, final trainings and all evaluations included.

    Exact and, under STAN, reduced iterations of the problem's own setting are timed here and now, in this process
    alone: that several workers do not slow one another down is supposed.
    """
    # Under STAN exact iterations are computed as those of the final training are.
    cost = _time(objective, settings, None if objective.stan is None else Stan(rate=1), evaluate=True)
    # Fewer than TIMED where the problem's own setting diverges.
    exact = cost.exact_seconds / max(cost.exact, 1)
    savings = _savings(objective, settings, exact)

    def training(start: int, stop: int) -> float:
        return exact * (stop - start) - sum(saving.of(start, stop) for saving in savings)

    final = exact * settings.max_resource + 2 * cost.evaluation_seconds
    rounds = math.ceil(settings.finalists / workers)
    return seconds_of(settings.plan(), training, cost.evaluation_seconds, workers) + rounds * final


class _Saving(NamedTuple):
    """What a trial saves between two iterations: so many seconds in each reduced one."""

    start: int
    stop: int
    schedule: Schedule
    seconds: float

    def of(self, start: int, stop: int) -> float:
        """Return the seconds saved of a training from `start` to `stop`."""
        return self.seconds * self.schedule.counts(max(start, self.start), min(stop, self.stop)).reduced


def _savings(objective: ProblemObjective, settings: SearchSettings, exact: float) -> list[_Saving]:
    """Time a reduced iteration of each rate, against the seconds of an exact one."""
    stan = objective.stan
    if stan is None:
        return []
    rates = settings.rates_from()
    starts = [start for start, _ in rates] or [0]
    stans = [replace(stan, rate=rate) for _, rate in rates] or [stan]
    savings = []
    for start, stop, settled in zip(starts, [*starts[1:], settings.max_resource], stans, strict=True):
        part = _time(objective, settings, replace(settled, pretrain=0, tail=0), evaluate=False)
        if part.reduced:
            saved = exact - part.reduced_seconds / part.reduced
            savings.append(_Saving(start, stop, stan.schedule, saved))
    return savings


def _time(objective: ProblemObjective, settings: SearchSettings, stan: Stan | None, evaluate: bool) -> Cost:
    """Return what TIMED iterations cost, after a few that warm up; and one evaluation, if it is asked for."""

    def cost(iterations: int, evaluated: tuple[str, ...]) -> Cost:
        return run(
            objective.problem,
            {},
            None,
            0,
            iterations,
            splits=objective.splits,
            seed=settings.seed,
            stan=stan,
            evaluate=evaluated,
            device=settings.device,
        ).cost

    cost(WARM_UP, ())
    return cost(TIMED, ("validation",) if evaluate else ())
