"""The plans that there are, by name: what a search runs, from its sizes."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from stantune.errors import UsageError
from stantune.search.plan.asha import async_plan
from stantune.search.plan.hyperband import Bracket, plan, wide_plan
from stantune.search.plan.measured import measured_plan
from stantune.texts import brief

PlanName: TypeAlias = Literal["hyperband", "wide", "measured"]
PLANS: tuple[PlanName, ...] = get_args(PlanName)


def plan_of(
    name: str,
    mode: str,
    max_iterations: int,
    min_iterations: int,
    eta: int,
    variant: str = "algorithm1",
    brackets: int | None = None,
    trials: int | None = None,
    lag: int = 1,
) -> tuple[Bracket, ...]:
    """Return the brackets of a search with these sizes; see SearchSettings for what they are. Raises UsageError."""
    if name not in PLANS:
        raise UsageError(f"`plan`={brief(name)} is unknown; give {', '.join(PLANS[:-1])} or {PLANS[-1]}")
    if mode == "async":
        return async_plan(max_iterations, min_iterations, eta, lag, trials)
    if name == "wide":
        return (wide_plan(max_iterations, min_iterations, eta, trials),)
    if name == "measured":
        return measured_plan(max_iterations, min_iterations, eta, variant, brackets)
    return plan(max_iterations, min_iterations, eta, variant, brackets)
