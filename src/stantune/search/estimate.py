"""How long a plan takes, from what its trainings and evaluations take."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from stantune.search.plan.asha import AsyncBracket
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.measured import OpenBracket, is_open


def seconds_of(
    plan: Sequence[Bracket], training: Callable[[int, int], float], evaluation: Callable[[int], float], workers: int
) -> float:
    """Return the time of a plan in which training from one iteration to another takes so long, and no trial diverges.

    A worker that is free takes the first job in the order of bracket and rung; a rung begins when the one before it is
    done, an asynchronous one grows with each eta results of it. An evaluation after so many iterations takes
    `evaluation` of them. A bracket that is still to be chosen begins when all before it is done, and is the one of its
    choices that takes longest.
    """
    if is_open(plan):
        return sum(
            max(
                seconds_of([choice], training, evaluation, workers)
                for choice in (bracket.choices if isinstance(bracket, OpenBracket) else [bracket])
            )
            for bracket in plan
        )
    # (bracket, rung), once for each trial that may be trained there.
    ready = [(b, 0) for b, bracket in enumerate(plan) for _ in range(bracket.rungs[0].trials)]
    left = {(b, r): rung.trials for b, bracket in enumerate(plan) for r, rung in enumerate(bracket.rungs)}
    running: list[tuple[float, int, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            b, r = heapq.heappop(ready)
            before = plan[b].rungs[r - 1].iterations if r else 0
            stop = plan[b].rungs[r].iterations
            took = training(before, stop) + evaluation(stop)
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
