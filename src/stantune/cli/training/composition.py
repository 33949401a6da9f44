"""What is searched as the options say it: the objective, its sizes, its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.arguments import whole
from stantune.cli import options as o
from stantune.cli.settings import accelerated_by_rung, stan_of
from stantune.errors import UsageError
from stantune.texts import brief

if TYPE_CHECKING:
    from stantune.images.problem.built_in import Problem
    from stantune.protocols import Objective
    from stantune.stan.config import Stan


def composed(
    what: str | Problem,
    quick: bool,
    max_iterations: int | None,
    min_iterations: int | None,
    eta: int,
    acceleration: tuple[str | None, str | None, float | None, str | None, int, int, list[str] | None],
    data: Path | None,
    compile: bool = False,
) -> tuple[Objective, dict[str, Any]]:
    """Return the objective that the options name, and its sizes as `tune` takes them; raises UsageError."""
    from stantune.objectives.choose import find_objective

    objective = find_objective(what, data=data)
    if max_iterations is None and quick and objective.length is not None:
        max_iterations = min(o.QUICK_ITERATIONS, objective.length)
    accelerate, rate = acceleration[:2]
    rates = () if accelerate is None else accelerated_by_rung(accelerate)
    if rates and rate is not None:
        raise UsageError(
            f"--rate {rate} and --accelerate {accelerate} both say what STAN computes; leave one of them out"
        )
    if max_iterations is not None:
        max_iterations = whole("max_resource", max_iterations)
    length = max_iterations if max_iterations is not None else objective.length
    stan = _stan(objective, data, compile, bool(rates), length, *acceleration)
    sizes = {"max_resource": max_iterations, "min_resource": min_iterations, "eta": eta, "rates": rates, "stan": stan}
    return objective, sizes


def _stan(
    objective: Objective,
    data: Path | None,
    compile: bool,
    by_rung: bool,
    length: int | None,
    accelerate: str | None,
    rate: str | None,
    tolerance: float | None,
    period: str | None,
    pretrain: int,
    tail: int,
    layers: list[str] | None,
) -> Stan | None:
    """Return STAN's settings as the options say them; None for exact training, or as the objective has it."""
    from stantune.images.objective import ProblemObjective
    from stantune.images.stan_settings import usual
    from stantune.tuning.compose import BY_RUNG

    if not isinstance(objective, ProblemObjective):
        # What has a Stan of its own is trained so anyway.
        meant = by_rung or (accelerate == "stan" and getattr(objective, "stan", None) is not None)
        given = {
            "--data": data,
            "--accelerate": None if meant else accelerate,
            "--rate": rate,
            "--tolerance": tolerance,
            "--period": period,
            "--pretrain": pretrain or None,
            "--tail": tail or None,
            "--layers": layers,
        }
        for option, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{option} says how a Problem is trained, and {objective.name} says that itself; leave it away"
                )
        return None
    # Whoever says how to spare wants it.
    said = by_rung or tolerance is not None or period is not None or pretrain or tail or layers is not None
    if accelerate is None:
        accelerate = "none" if compile and not said and rate is None else "stan"
    default = usual(objective.problem)
    names = layers if layers is not None else list(BY_RUNG["layers"]) if by_rung else objective.problem.stan_layers
    if not said and rate is None:
        names = default.layers
    reduced = str(BY_RUNG["period"]) if by_rung and period is None else o.PERIOD if period is None else period
    return stan_of(
        "stan" if by_rung else accelerate,
        (o.SEARCH_RATE if said else f"{default.rate:g}") if rate is None else rate,
        tolerance,
        reduced,
        pretrain,
        tail,
        objective.problem.iterations if length is None else length,
        replace(objective.problem, stan_layers=tuple(names)),
    )


def enqueued(objective: Objective, text: str) -> dict[str, Any]:
    """Return the setting that --enqueue gives; raises UsageError."""
    setting = {}
    for assignment in text.split(","):
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"--enqueue {brief(text)} holds {brief(assignment)!r}, which is no assignment; write NAME=VALUE,…"
            )
        if name.strip() in setting:
            raise UsageError(f"--enqueue {brief(text)} gives {brief(name.strip())} twice; give each parameter once")
        setting[name.strip()] = objective.space.parse(name.strip(), value.strip())
    return setting
