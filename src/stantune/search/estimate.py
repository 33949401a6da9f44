"""How long a search will take, from a few timed iterations."""

from __future__ import annotations

from dataclasses import replace

from stantune.problems import Problem, Splits
from stantune.search.hyperband import trained_iterations
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan
from stantune.train import run
from stantune.trial import Cost

WARM_UP = 4
TIMED = 16


def estimate_seconds(problem: Problem, settings: SearchSettings, splits: Splits) -> float:
    """Return the seconds of a whole search if no trial diverges, the final training and all evaluations included.

    Exact and, under STAN, reduced iterations of the problem's own setting are timed here and now.
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
    plan = settings.plan()
    evaluations = sum(rung.trials for bracket in plan for rung in bracket.rungs) + 2
    trained = average * trained_iterations(plan).continued + exact * settings.max_iterations
    return trained + cost.evaluation_seconds * evaluations


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
