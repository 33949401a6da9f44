"""How long a search will take, from a few timed iterations."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from stantune.outcome import Cost
from stantune.problems import Problem, Splits
from stantune.search.hyperband import Bracket
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan
from stantune.train import run

WARM_UP = 4
TIMED = 16


def estimate_seconds(problem: Problem, settings: SearchSettings, splits: Splits, workers: int = 1) -> float:
    """Return the seconds of a whole search if no trial diverges, the final training and all evaluations included.

    Exact and, under STAN, reduced iterations of the problem's own setting are timed here and now, in this process
    alone: that several workers do not slow one another down is supposed.
    """
    cost = _time(problem, settings, splits, None, evaluate=True)
    # Fewer than TIMED where the problem's own setting diverges.
    exact = cost.exact_seconds / max(cost.exact, 1)
    average = exact
    if settings.stan is not None:
        at_once = replace(settings.stan, pretrain=0, tail=0)
        part = _time(problem, settings, splits, at_once, evaluate=False)
        reduced = part.reduced_seconds / part.reduced if part.reduced else exact
        counts = settings.stan.schedule.counts(0, settings.max_iterations)
        average = (exact * (counts.exact + counts.refresh) + reduced * counts.reduced) / settings.max_iterations
    final = exact * settings.max_iterations + 2 * cost.evaluation_seconds
    return seconds_of(settings.plan(), average, cost.evaluation_seconds, workers) + final


def seconds_of(plan: Sequence[Bracket], iteration: float, evaluation: float, workers: int) -> float:
    """Return the time of a plan in which each iteration and each evaluation takes so long, and no trial diverges.

    A worker that is free takes the first job in the order of bracket and rung; a rung begins when the one before it is
    done.
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
            took = (plan[b].rungs[r].iterations - before) * iteration + evaluation
            heapq.heappush(running, (now + took, b, r))
        now, b, r = heapq.heappop(running)
        left[b, r] -= 1
        if not left[b, r]:
            for _ in range(left.get((b, r + 1), 0)):
                heapq.heappush(ready, (b, r + 1))
    return now


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
