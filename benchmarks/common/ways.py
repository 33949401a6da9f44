"""What STAN does in one way of searching, of several that a benchmark compares: "0.25", "stan:auto/9", "0.5/9@*"."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from stantune.cli.options import PERIOD, SEARCH_RATE
from stantune.cli.settings import accelerated_by_rung
from stantune.errors import UsageError
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import find
from stantune.objectives.choose import find_objective
from stantune.search.plan import fidelity
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan
from stantune.tuning.compose import BY_RUNG


class Searched(NamedTuple):
    """A problem with STAN as a way says, and the settings of its search."""

    objective: ProblemObjective
    settings: SearchSettings


def searched(problem: str, settings: SearchSettings, stan: Stan | None) -> Searched:
    """Return a problem of this name as it is searched; raises UsageError."""
    objective = find_objective(problem, stan)
    assert isinstance(objective, ProblemObjective)
    return Searched(objective, settings)


def with_way(settings: SearchSettings, problem: str, way: str) -> Searched:
    """Return what is searched, and how, with STAN as `way` says.

    Args:
        settings: without rates.
        problem: its layers are accelerated by default.
        way: a rate as `--rate` takes it, "stan" for 1/2, or stan:RATES as `--accelerate` takes them; then "/" and what
            `--period` takes, "@" and what `--layers` does, each where it is not the search's default.

    Raises:
        UsageError: it is none of these.
    """
    what, _, layers = way.partition("@")
    how, _, period = what.partition("/")
    kind, by_rung, _ = how.partition(":")
    if not (period or "1").isdecimal() or (by_rung and kind != "stan"):
        raise UsageError(f"{way} is no way of searching; give a rate, stan:auto, stan:RATE,…, with /Z or @LAYERS")
    stan = Stan(
        period=int(period or (BY_RUNG["period"] if by_rung else PERIOD)),
        iterations=settings.max_resource,
        layers=(layers,) if layers else BY_RUNG["layers"] if by_rung else find(problem).stan_layers,
    )
    if by_rung:
        named = accelerated_by_rung(how)
        rates = fidelity.chosen_rates(named, settings.max_resource, settings.min_resource, settings.eta)
        # Each one is looked at.
        spared = {rate: replace(stan, rate=rate) for rate in rates}
        settings = replace(settings, rates=rates if len(rates) > 1 else ())
        return searched(problem, settings, spared[min(rates)])
    try:
        rate = float(SEARCH_RATE if kind == "stan" else kind)
    except ValueError:
        raise UsageError(f"{way} is no way of searching; give a rate such as 0.5, stan:auto or stan:RATE,…") from None
    return searched(problem, settings, replace(stan, rate=rate))


def name_of(found: Searched, way: str) -> str:
    """Return the way with all that its result depends on, whatever the defaults are."""
    (problem, stan), rates = (found.objective.problem, found.objective.stan), found.settings.rates
    assert stan is not None
    what, _, _ = way.partition("@")
    how = f"stan:{fidelity.text_of(rates)}" if rates else what.partition("/")[0]
    return f"{how}/{stan.period}" + ("" if stan.layers == problem.stan_layers else f"@{','.join(stan.layers)}")
