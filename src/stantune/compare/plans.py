"""What is decided before a comparison trains, and kept: plans in place of "auto", memories, predicted speed-ups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, model_validator

from stantune.errors import StantuneError
from stantune.images.problem.built_in import Problem, Splits
from stantune.stan.config import Stan
from stantune.stan.memo.budget import free_memory
from stantune.training.planning import plan_from, times_of


@dataclass(frozen=True)
class Planned:
    """What is trained with, and what is expected of it.

    Attributes:
        stan: settings without "auto" and without a budget that depends on the memory that happens to be free.
        speedup: predicted, of the whole training; None where nothing predicts it.
    """

    stan: Stan
    speedup: float | None


class Kept(BaseModel):
    """What a record keeps of it, to be put into the settings that were asked for.

    Attributes:
        plan: `Stan.planned`; None where no plan was asked for.
        budget: the memory's; None without one.
        speedup: predicted.
    """

    plan: dict[str, Any] | None
    budget: int | None
    speedup: float | None

    @classmethod
    def of(cls, planned: Planned) -> Kept:
        """Return what is to be kept."""
        memo = planned.stan.memo
        return cls(plan=planned.stan.planned, budget=None if memo is None else memo.budget, speedup=planned.speedup)

    def planned(self, asked: Stan) -> Planned:
        """Return what was planned."""
        stan = asked if self.plan is None or asked.rate != "auto" else asked.with_plan(self.plan)
        if stan.memo is not None:
            stan = replace(stan, memo=replace(stan.memo, budget=self.budget))
        return Planned(stan, self.speedup)

    def settles(self, asked: Stan) -> bool:
        """Tell whether it holds what `asked` needs: one of before has no plan of "auto" where all train in TF32."""
        return self.plan is not None or not _open(asked)

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, content: Any) -> Any:
        """Read what once was kept: all of STAN's settings, with a plan of layers."""
        if not isinstance(content, dict) or "stan" not in content:
            return content
        stan, plan = content["stan"], None
        try:
            if stan["plan"] is not None:
                layers = {line["layer"]: line["patterns"] for line in stan["plan"]}
                plan = {"rate": stan["rate"], "period": stan["period"], "plan": layers}
            return {"plan": plan, "budget": stan["memo"] and stan["memo"]["budget"], "speedup": content["speedup"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"no settings of STAN: {error}") from None


def plan(
    problem: Problem,
    setting: Mapping[str, Any],
    stans: Mapping[str, Stan],
    iterations: int,
    splits: Splits,
    device: str = "cpu",
    predict: bool = True,
) -> dict[str, Planned]:
    """Time the problem's layers once, settle what `stans` leave open, and, if asked to, predict the speed-up of each.

    Without `predict` layers are timed for "auto" alone, which cannot do without.

    Raises StantuneError where a plan is needed and the setting diverges.
    """
    stans = _budgeted(stans)
    found = {name: Planned(stan, None) for name, stan in stans.items()}
    timed = {name: stan for name, stan in stans.items() if predict or _open(stan)}
    if not timed:
        return found
    layers = tuple(dict.fromkeys(pattern for stan in timed.values() for pattern in stan.layers))
    try:
        times = times_of(problem, setting, layers, splits, device=device)
        plans = {
            name: plan_from(times, stan, problem, setting, splits, iterations=iterations, device=device)
            for name, stan in timed.items()
        }
    except StantuneError:
        # The setting diverges.
        if any(stan.rate == "auto" for stan in timed.values()):
            raise
        return found
    for name, made in plans.items():
        found[name] = Planned(made.stan, made.predicted_speedup if predict else None)
    return found


def _open(stan: Stan) -> bool:
    """Tell whether settings cannot be trained with before there is a plan."""
    return stan.rate == "auto" and stan.plan is None


def _budgeted(stans: Mapping[str, Stan]) -> dict[str, Stan]:
    """Return the settings with a number of bytes for each memory: each seed must give the same layers one.

    The trainings of a seed are in memory together, so that they share the half of what is free that one alone may take.
    """
    sharing = sum(stan.memo is not None and stan.memo.budget is None for stan in stans.values())
    if not sharing:
        return dict(stans)
    share = max(free_memory() // 2 // sharing, 1)
    return {
        name: replace(stan, memo=replace(stan.memo, budget=stan.memo.budget or share)) if stan.memo else stan
        for name, stan in stans.items()
    }


def plan_words(stan: Stan) -> str:
    """Say in a line what was planned."""
    lines = [f"{line.layer} {' or '.join(line.patterns)}" for line in stan.plan or () if line.patterns]
    return f"{', '.join(lines) or 'no layer pays'}; Z = {stan.period}"
