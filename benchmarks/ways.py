"""What STAN does in one way of searching, of several that a benchmark compares: "0.25", "stan:auto/9", "0.5/9@*"."""

from __future__ import annotations

from dataclasses import replace

from stantune.cli.options import PERIOD, SEARCH_RATE
from stantune.errors import UsageError
from stantune.images.problems import find
from stantune.search.plan import fidelity
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan


def with_way(settings: SearchSettings, problem: str, way: str) -> SearchSettings:
    """Return the settings with STAN as `way` says.

    Args:
        settings: without STAN.
        problem: its layers are accelerated by default.
        way: a rate as `--rate` takes it, "stan" for 1/2, or stan:RATES as `--accelerate` takes them; then "/" and what
            `--period` takes, "@" and what `--layers` does, each where it is not the search's default.

    Raises:
        UsageError: it is none of these.
    """
    what, _, layers = way.partition("@")
    how, _, period = what.partition("/")
    kind, by_rung, text = how.partition(":")
    if not (period or "1").isdecimal() or (by_rung and kind != "stan"):
        raise UsageError(f"{way} is no way of searching; give a rate, stan:auto, stan:RATE,…, with /Z or @LAYERS")
    stan = Stan(
        period=int(period or (fidelity.PERIOD if by_rung else PERIOD)),
        iterations=settings.max_iterations,
        layers=(layers,) if layers else fidelity.LAYERS if by_rung else find(problem).stan_layers,
    )
    if by_rung:
        rates = fidelity.parse_rates(text, settings.max_iterations, settings.min_iterations, settings.eta)
        return replace(settings, stan=replace(stan, rate=min(rates)), rates=rates if len(rates) > 1 else ())
    try:
        rate = float(SEARCH_RATE if kind == "stan" else kind)
    except ValueError:
        raise UsageError(f"{way} is no way of searching; give a rate such as 0.5, stan:auto or stan:RATE,…") from None
    return replace(settings, stan=replace(stan, rate=rate))


def name_of(settings: SearchSettings, problem: str, way: str) -> str:
    """Return the way with all that its result depends on, whatever the defaults are."""
    assert settings.stan is not None
    what, _, _ = way.partition("@")
    how = fidelity.text_of(settings.rates) if settings.rates else what.partition("/")[0]
    layers, usual = settings.stan.layers, find(problem).stan_layers
    return f"{how}/{settings.stan.period}" + ("" if layers == usual else f"@{','.join(layers)}")
