"""What curves.py has kept of its searches, and the tables of it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common.kept import RESULTS
from benchmarks.stopping.curves_surrogate import R
from stantune.search.plan.hyperband import plan, trained_iterations

KEPT = RESULTS / "curves.jsonl"
ETA = 3
LADDERS = {"r = 1": 1, "r = 2": 2}
NOISE = (0.0, 1.5)
BUDGETS = (0.25, 0.5, 1.0, 2.0)
PLANS = ("hyperband", "wide", "measured", "asha")
SAMPLERS = ("random", "tpe", "bohb")
DRAWS = 10_000


def whole(least: int) -> int:
    """Return H."""
    return trained_iterations(plan(R, least, ETA)).continued


Key = tuple[str, float, str, str, int]


def kept() -> dict[Key, dict[str, Any]]:
    """Return what was run before."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    found = [json.loads(line) for line in lines]
    return {(of["ladder"], of["noise"], of["plan"], of["sampler"], of["seed"]): of for of in found}


Means = Mapping[float, "np.ndarray[Any, np.dtype[np.float64]]"]


def means(
    found: Mapping[Key, Mapping[str, Any]], ladder: str, noise: float, name: str, sampler: str, seeds: Iterable[int]
) -> Means:
    """Return {budget: mean regret over seeds, by task} of what all tasks and seeds have."""
    budgets = BUDGETS if sampler == "random" else BUDGETS[1:3]
    by_budget: dict[float, list[list[float]]] = defaultdict(list)
    for seed in seeds:
        of_tasks = found[ladder, noise, name, sampler, seed]["regrets"]
        for place, budget in enumerate(budgets):
            by_budget[budget].append([math.nan if of[place] is None else of[place] for of in of_tasks])
    averaged = {budget: np.array(of).mean(0) for budget, of in by_budget.items()}
    return {budget: of for budget, of in averaged.items() if not np.isnan(of).any()}


def reached(curve: Sequence[tuple[float, float]], goal: float) -> float:
    """Return the budget at which a mean regret falls to a goal, by the budgets' logarithms; infinite if never."""
    before: tuple[float, float] | None = None
    for budget, regret in curve:
        if regret <= goal:
            if before is None or before[1] == regret:
                return budget
            part = (before[1] - goal) / (before[1] - regret)
            return float(before[0] * (budget / before[0]) ** part)
        before = budget, regret
    return math.inf


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the middle 95 %."""
    ordered = sorted(values)
    return ordered[round(0.025 * (len(ordered) - 1))], ordered[round(0.975 * (len(ordered) - 1))]


def table_of(found: Mapping[Key, Mapping[str, Any]], ladder: str, noise: float, models: bool) -> str:
    """Return a table of mean regrets; of random settings alone, or of samplers with the seeds that models have."""
    sides: dict[tuple[str, str], set[int]] = defaultdict(set)
    for of_ladder, of_noise, name, sampler, seed in found:
        if (of_ladder, of_noise) == (ladder, noise):
            sides[name, sampler].add(seed)
    sides = {side: seeds for side, seeds in sides.items() if models or side[1] == "random"}
    base = ("hyperband", "random")
    if base not in sides or (models and all(sampler == "random" for _, sampler in sides)):
        return ""
    seeds = sorted(set.intersection(*sides.values()))
    budgets = BUDGETS[1:3] if models else BUDGETS
    goals = means(found, ladder, noise, *base, seeds)[1.0]
    dice = np.random.default_rng(0)
    drawn = dice.integers(0, len(goals), (DRAWS, len(goals)))
    head = [
        "plan",
        "sampler",
        *(f"{budget:g} H" for budget in budgets),
        "H/2 less Hyperband at H",
        "Hyperband's regret at",
    ]
    lines = [head, ["---"] * len(head)]
    for name, sampler in sorted(sides, key=lambda side: ([*PLANS, "optuna"].index(side[0]), SAMPLERS.index(side[1]))):
        curve = means(found, ladder, noise, name, sampler, seeds)
        cells = [
            f"{curve[budget].mean():.2f} ({'–'.join(f'{end:.2f}' for end in interval(curve[budget][drawn].mean(1)))})"
            if budget in curve
            else "–"
            for budget in budgets
        ]
        if 0.5 in curve:
            less = curve[0.5] - goals
            low, high = interval(less[drawn].mean(1))
            cells.append(f"{less.mean():+.2f} ({low:+.2f} … {high:+.2f})")
        else:
            cells.append("–")
        points = [(budget, curve[budget]) for budget in budgets if budget in curve]
        at = reached([(budget, float(of.mean())) for budget, of in points], float(goals.mean()))
        each = [
            reached([(budget, float(mean)) for (budget, _), mean in zip(points, row, strict=True)], float(goal))
            for row, goal in zip(np.array([of[drawn].mean(1) for _, of in points]).T, goals[drawn].mean(1), strict=True)
        ]
        cells.append(
            f"{_share(at, budgets)} ({_share(interval(each)[0], budgets)} … {_share(interval(each)[1], budgets)})"
        )
        lines.append([name, sampler, *cells])
    title = (
        f"{ladder}, {'no noise' if not noise else f'noise of {noise:g} points'}, H = {whole(LADDERS[ladder])} epochs, "
    )
    title += f"{len(goals)} tasks, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def _share(at: float, budgets: Sequence[float]) -> str:
    if at == math.inf:
        return f">{budgets[-1]:g} H"
    return f"≤{at:g} H" if at == budgets[0] else f"{at:.2f} H"
