"""How long a search will take, from a few timed iterations."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from stantune.images.problems import Problem, Splits
from stantune.outcome import Cost
from stantune.search.plan.asha import AsyncBracket
from stantune.search.plan.hyperband import Bracket
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan
from stantune.stan.schedule import Schedule
from stantune.training.train import run

WARM_UP = 4
TIMED = 16


def estimate_seconds(problem: Problem, settings: SearchSettings, splits: Splits, workers: int = 1) -> float:
    """Return the seconds of a whole search if no trial diverges, final trainings and all evaluations included.

    Exact and, under STAN, reduced iterations of the problem's own setting are timed here and now, in this process
    alone: that several workers do not slow one another down is supposed.
    """
    # Under STAN exact iterations are computed as those of the final training are.
    cost = _time(problem, settings, splits, None if settings.stan is None else Stan(rate=1), evaluate=True)
    # Fewer than TIMED where the problem's own setting diverges.
    exact = cost.exact_seconds / max(cost.exact, 1)
    savings = _savings(problem, settings, splits, exact)

    def training(start: int, stop: int) -> float:
        return exact * (stop - start) - sum(saving.of(start, stop) for saving in savings)

    final = exact * settings.max_iterations + 2 * cost.evaluation_seconds
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


def _savings(problem: Problem, settings: SearchSettings, splits: Splits, exact: float) -> list[_Saving]:
    """Time a reduced iteration of each rate, against the seconds of an exact one."""
    stan = settings.stan
    if stan is None:
        return []
    rates = settings.rates_from()
    starts = [entry.start for entry in rates] or [0]
    stans = [replace(stan, rate=entry.rate) for entry in rates] or [stan]
    savings = []
    for start, stop, settled in zip(starts, [*starts[1:], settings.max_iterations], stans, strict=True):
        part = _time(problem, settings, splits, replace(settled, pretrain=0, tail=0), evaluate=False)
        if part.reduced:
            saved = exact - part.reduced_seconds / part.reduced
            savings.append(_Saving(start, stop, stan.schedule, saved))
    return savings


def seconds_of(
    plan: Sequence[Bracket], training: Callable[[int, int], float], evaluation: float, workers: int
) -> float:
    """Return the time of a plan in which training from one iteration to another takes so long, and no trial diverges.

    A worker that is free takes the first job in the order of bracket and rung; a rung begins when the one before it is
    done, an asynchronous one grows with each eta results of it. Every evaluation takes `evaluation` seconds.
    """
    # (bracket, rung), once for each trial that may be trained there.
    ready = [(b, 0) for b, bracket in enumerate(plan) for _ in range(bracket.rungs[0].trials)]
    left = {(b, r): rung.trials for b, bracket in enumerate(plan) for r, rung in enumerate(bracket.rungs)}
    running: list[tuple[float, int, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            b, r = heapq.heappop(ready)
            before = plan[b].rungs[r - 1].iterations if r else 0
            took = training(before, plan[b].rungs[r].iterations) + evaluation
            heapq.heappush(running, (now + took, b, r))
        now, b, r = heapq.heappop(running)
        left[b, r] -= 1
        if r + 1 < len(plan[b].rungs):
            done = plan[b].rungs[r].trials - left[b, r]
            for _ in range(_promoted(plan[b], r, done) - _promoted(plan[b], r, done - 1)):
                heapq.heappush(ready, (b, r + 1))
    return now


def _promoted(bracket: Bracket, rung: int, results: int) -> int:
    """Return how many trials a rung with so many results has promoted."""
    if isinstance(bracket, AsyncBracket):
        return results // bracket.eta
    return bracket.rungs[rung + 1].trials if results == bracket.rungs[rung].trials else 0


def _time(problem: Problem, settings: SearchSettings, splits: Splits, stan: Stan | None, evaluate: bool) -> Cost:
    """Return what TIMED iterations cost, after a few that warm up; and one evaluation, if it is asked for."""

    def cost(iterations: int, evaluated: tuple[str, ...]) -> Cost:
        return run(
            problem,
            {},
            None,
            0,
            iterations,
            splits=splits,
            seed=settings.seed,
            stan=stan,
            evaluate=evaluated,
            device=settings.device,
        ).cost

    cost(WARM_UP, ())
    return cost(TIMED, ("validation",) if evaluate else ())
