"""A study's problems and seeds as they are asked for: what is searched, with which settings, and how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from stantune.arguments import MOST_AT_ONCE, digits, shown, whole
from stantune.compare.study.contract import StudiedProblem
from stantune.compare.study.numbers import test_of
from stantune.compare.study.ways import Applied, Way
from stantune.errors import UsageError
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import Splits
from stantune.objectives.choose import as_problem, find_objective, objective_of
from stantune.protocols import Objective
from stantune.search.identity import kind_of
from stantune.search.plan.finals import CONTINUE, SCRATCH
from stantune.search.results.contract import MetricResult
from stantune.training.precision import precision_on
from stantune.tuning.compose import compose

Length = int | str | None


@dataclass(frozen=True)
class Problem:
    """One of the problems: what is searched, and the settings of its searches as `tune` takes them."""

    objective: Objective
    told: StudiedProblem
    settings: Mapping[str, Any]

    @property
    def fixed(self) -> Mapping[str, Any]:
        """Parameters that have one value in all ways."""
        fixed: Mapping[str, Any] = self.settings["fixed"]
        return fixed

    def applied(self, way: Way, splits: Splits | None = None) -> Applied:
        """Return what is searched in a way; see Way.applied."""
        return way.applied(self.objective, self.fixed, splits)

    def run_with(self, workers: int, threads: int | Literal["auto"] | None, device: str) -> Problem:
        """Return the problem told of with what its searches are run with; raises UsageError where that cannot be."""
        what = self.objective
        # As it trains: "fp32" on a CPU is what there is without any.
        precision = precision_on(what.precision, device) if isinstance(what, ProblemObjective) else None
        noted = {"workers": workers, "threads": threads, "device": kind_of(device), "precision": precision}
        return replace(self, told=self.told.model_copy(update=noted))


def each_of(objectives: object) -> list[object]:
    """Return what is to be searched, one or several; raises UsageError where it is none."""
    several = list(objectives) if isinstance(objectives, list | tuple) else [objectives]
    if not several or None in several:
        raise UsageError("`objectives` names none; give one, such as lenet")
    return several


def seeds_of(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds: so many from 0 on, or those that are given; raises UsageError."""
    if isinstance(seeds, list | tuple | range):
        found = [whole("seeds", seed, 0) for seed in seeds]
        if not found or len(set(found)) < len(found):
            raise UsageError(f"`seeds`={shown(seeds)} names none, or one twice; give each once, or how many there are")
        return found
    return list(range(whole("seeds", seeds, 1, MOST_AT_ONCE)))


def problem_of(
    thing: object, given: Mapping[str, Any], most: Length, final: Length, data: Path | None, precision: str | None
) -> Problem:
    """Return one of the problems with the settings of its searches; raises UsageError."""
    source = thing if isinstance(thing, str) else None
    named = as_problem(thing) if source is None else source
    objective = objective_of(thing if named is None else find_objective(named, data=data), precision=precision)
    settings = {
        **given,
        "fixed": {name: value for name, value in given["fixed"].items() if name in objective.space},
        "max_resource": _length("max_resource", most, objective),
        "final_resource": _length("final_resource", final, objective),
    }
    _, composed = compose(objective, **({**settings, "final": SCRATCH} if given["final"] == CONTINUE else settings))
    metric = objective.metric
    told = StudiedProblem(
        name=objective.name,
        source=source,
        metric=MetricResult(name=metric.name, direction=metric.direction, unit=metric.unit),
        test=test_of(metric),
        unit=objective.unit,
        max_iterations=composed.max_resource,
        min_iterations=composed.min_resource,
        final_iterations=composed.final_length,
        eta=composed.eta,
        brackets=composed.brackets,
        validation=composed.validation,
        finalists=composed.finalists,
        final=given["final"],
        fixed=dict(composed.fixed),
        predicted={},
    )
    return Problem(objective, told, {**settings, "fixed": composed.fixed})


def _length(parameter: str, given: Length, objective: Objective) -> int | None:
    """Return a length that is given as a number, or as a share of the objective's own; raises UsageError."""
    if given is None:
        return None
    if not isinstance(given, str):
        return whole(parameter, given, 1)
    over, slash, under = given.partition("/")
    upper, lower = digits(over), digits(under) if slash else 1
    if not upper or not lower:
        raise UsageError(
            f"`{parameter}`={shown(given)} is no length; give a number, or a share of the problem's own such as 1/10"
        )
    if not slash:
        return upper
    if objective.length is None:
        raise UsageError(
            f"`{parameter}`={given} is a share of a problem's length, and {objective.name} has none; give a number"
        )
    return max(1, int(Fraction(upper, lower) * objective.length))
