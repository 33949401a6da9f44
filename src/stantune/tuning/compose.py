"""What is searched, and with which settings: arguments checked, and what is not said filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from stantune.arguments import MOST_SEED, shown, text, truth, whole
from stantune.errors import UsageError
from stantune.objectives.choose import as_problem, objective_of
from stantune.protocols import Objective
from stantune.search.plan.fidelity import chosen_rates
from stantune.search.plan.finals import SCRATCH
from stantune.search.propose.given import enqueued_settings, fixed_values
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.space import Space
from stantune.texts import encodable

if TYPE_CHECKING:
    from stantune.stan.config import Stan

# STAN's settings for rates by rung where nothing else is said: low rungs only put settings in order, and sparing in all
# layers, nine iterations of ten, changes it little (docs/measurements.md).
BY_RUNG: dict[str, Any] = {"period": 9, "layers": ("*",)}


def compose(
    objective: object,
    space: Space | None = None,
    max_resource: int | None = None,
    min_resource: int | None = None,
    rates: Sequence[float] | Literal["auto"] = (),
    *,
    unit: str | None = None,
    minimize: str | None = None,
    maximize: str | None = None,
    name: str | None = None,
    stan: Stan | Literal["usual"] | None = "usual",
    precision: str | None = None,
    resize: object = None,
    compile: bool = False,
    seed: int = 0,
    eta: int = 3,
    plan: str = "hyperband",
    enqueue: Sequence[Mapping[str, Any]] = (),
    fixed: Mapping[str, Any] | None = None,
    **others: Any,
) -> tuple[Objective, SearchSettings]:
    """Return what is searched and the settings of the search, checked, with defaults for what is not said; see `tune`.

    Raises UsageError.
    """
    seed = whole("seed", seed, most=MOST_SEED)
    for parameter, value in (("unit", unit), ("minimize", minimize), ("maximize", maximize), ("name", name)):
        if value is not None:
            text(parameter, value)
    precision = None if precision is None else text("precision", precision)
    truth("compile", compile)
    if not isinstance(rates, str | list | tuple):
        raise UsageError(f"`rates`={shown(rates)} is no list; give auto, or a rate for each rung such as 0.25,0.5,1")
    if isinstance(objective, str):
        from stantune.images.problem.built_in import called

        objective = called(objective, "give a Problem of your own itself")
    how = _accelerated(objective, stan, bool(rates), compile)
    what = objective_of(
        objective,
        space,
        unit=unit,
        minimize=minimize,
        maximize=maximize,
        name=name,
        stan=how,
        precision=precision,
        resize=resize,
        compile=compile,
    )
    _check_names(what)
    if max_resource is None:
        if what.length is None:
            raise UsageError(
                f"`max_resource` is missing: say how many {what.unit}s a training of {what.name} has at most"
            )
        max_resource = what.length
    max_resource = whole("max_resource", max_resource)
    min_resource = None if min_resource is None else whole("min_resource", min_resource)
    for parameter, number in (("max_resource", max_resource), ("min_resource", min_resource)):
        if number is not None and number < 1:
            raise UsageError(f"`{parameter}`={number} is too small; give a whole number of {what.unit}s, 1 or more")
    eta = whole("eta", eta, 2)
    plan = text("plan", plan)
    for parameter in ("brackets", "trials", "lag", "finalists", "final_resource"):
        if others.get(parameter) is not None or (parameter in ("lag", "finalists") and parameter in others):
            others[parameter] = whole(parameter, others[parameter])
    for parameter in ("variant", "mode", "validation", "final"):
        if parameter in others:
            text(parameter, others[parameter])
    if not isinstance(fixed, Mapping | None) or not isinstance(enqueue, list | tuple):
        raise UsageError("`fixed` is a dict of parameters and values, and `enqueue` a list of such dicts; give them so")
    least = default_min_resource(max_resource, eta, what.unit) if min_resource is None else min_resource
    held = fixed_values(what.space, fixed or {})
    known = tuple(enqueued_settings(what.space, held, enqueue))
    settings = SearchSettings(seed, max_resource, least, eta, plan, enqueue=known, fixed=held, **others)
    # Whether weights may be taken as they are depends on the rates, which are chosen below.
    (replace(settings, final=SCRATCH) if rates else settings).check(what)
    if rates:
        chosen = chosen_rates(rates, max_resource, least, eta)
        if how is not None:
            # Each one is looked at; the objective is told the least, and one for all rungs is its own.
            spared = {rate: replace(how, rate=rate) for rate in chosen}
            what = objective_of(what, None, stan=spared[min(chosen)])
        settings = replace(settings, rates=chosen if len(chosen) > 1 else ())
        settings.check(what)
    return what, settings


def _check_names(objective: Objective) -> None:
    """Raise UsageError for a name that no file, no database or no JSON can hold."""
    names = [("name", objective.name), ("unit", objective.unit), ("metric", objective.metric.name)]
    for what, name in [*names, *(("parameter", name) for name in objective.space)]:
        if encodable(name) != name:
            raise UsageError(f"the {what} {shown(name)} holds a character that is none in UTF-8, or NUL; leave it out")


def _accelerated(objective: object, stan: Stan | Literal["usual"] | None, by_rung: bool, compile: bool) -> Stan | None:
    """Return what is meant by `stan`, before rates by rung are looked at; raises UsageError."""
    said = not (isinstance(stan, str) and stan == "usual")
    if by_rung and (not said or stan is None):
        return _spared_by_rung(objective)
    if not said:
        return None if compile else _usual(objective)
    if stan is not None and not hasattr(stan, "least_rate"):
        raise UsageError(f"`stan`={shown(stan)} is no Stan; give stantune.Stan(rate=0.5), say, or None for none")
    return cast("Stan | None", stan)


def _usual(objective: object) -> Stan | None:
    """Return how a Problem is accelerated where nobody says; None for all else, which says it itself or is not."""
    problem = as_problem(objective)
    if problem is None:
        return None
    from stantune.images.stan_settings import usual

    return usual(problem)


def _spared_by_rung(objective: object) -> Stan | None:
    """Return STAN's settings for rates by rung where none are given; None where the objective has its own."""
    if isinstance(objective, Objective):
        return getattr(objective, "stan", None)
    from stantune.stan.config import Stan

    return Stan(**BY_RUNG)
