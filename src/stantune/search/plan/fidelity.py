"""The share of the work by rung: coarse where trainings only rank settings, exact where the winner is decided.

A rung is told by the iterations that a trial has there, and a trial passes through the same rates on its way there in
every bracket. So its result after so many iterations depends on its setting and seed alone, results of different
brackets can be compared, and equal settings need not be trained twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from stantune.arguments import number
from stantune.errors import UsageError
from stantune.search.plan.hyperband import plan, stops_of
from stantune.texts import brief

# The word for `automatic_rates`.
AUTO = "auto"


def rungs(max_iterations: int, min_iterations: int, eta: int) -> tuple[int, ...]:
    """Return the iterations of every rung, from the lowest to R: those of the bracket with most rungs, ascending.

    Raises UsageError where the numbers allow no bracket.
    """
    return stops_of(plan(max_iterations, min_iterations, eta))


def automatic_rates(max_iterations: int, min_iterations: int, eta: int) -> tuple[float, ...]:
    """Return the rate on the way to each rung, from the lowest to R: 1/4 up to R/9, 1/2 up to R/3, 1 beyond.

    So whatever eta is, an exact stretch of two thirds of a whole training or more lies before the last comparison; with
    eta = 3 these are the rungs up to the third from the top, the second, and the top itself.
    """
    return tuple(
        0.25 if 9 * iterations <= max_iterations else 0.5 if 3 * iterations <= max_iterations else 1.0
        for iterations in rungs(max_iterations, min_iterations, eta)
    )


def rates_from(
    rates: Sequence[float], max_iterations: int, min_iterations: int, eta: int
) -> tuple[tuple[int, float], ...]:
    """Return from which iteration on each rate holds; one entry for each change.

    The last of `rates` is that of the way to R, the one before it of the way to the rung below, and so on; the first
    holds in all lower rungs, too.

    Raises:
        UsageError: there are more rates than rungs.
    """
    stops = rungs(max_iterations, min_iterations, eta)
    if len(rates) > len(stops):
        raise UsageError(
            f"`rates`={text_of(rates)} has {len(rates)} rates, and this search has {len(stops)} rungs (up to "
            f"{', '.join(map(str, stops))} iterations); give at most one rate for each"
        )
    found: list[tuple[int, float]] = []
    for start, rate in zip((0, *stops), _of_each(rates, len(stops)), strict=False):
        if not found or found[-1][1] != rate:
            found.append((start, rate))
    return tuple(found)


def chosen_rates(rates: str | Sequence[float], max_iterations: int, min_iterations: int, eta: int) -> tuple[float, ...]:
    """Return rates as `rates_from` takes them, in their shortest form: of equal ones at the lower end, one.

    Args:
        rates: from the lowest rung to the top, or "auto" for `automatic_rates`.
        max_iterations: R.
        min_iterations: r.
        eta: one trial of so many is promoted.

    Raises:
        UsageError: it is another word, there are fewer than two rates or more than rungs, or one is no share.
    """
    if isinstance(rates, str):
        if rates != AUTO:
            raise UsageError(
                f"`rates`={brief(rates)} is unknown; give auto, or a rate for each rung such as 0.25,0.5,1"
            )
        return _shortest(automatic_rates(max_iterations, min_iterations, eta))
    rates = [number("rates", rate) for rate in rates]
    if len(rates) < 2:
        raise UsageError(f"`rates`={text_of(rates)} is one rate for all rungs; give several, such as 0.25,0.5,1")
    for rate in rates:
        if not 0 < rate <= 1:
            raise UsageError(
                f"`rates`={text_of(rates)}: {text_of([rate])} is no share of the work; give 0.25, 0.5 or 1"
            )
    rates_from(rates, max_iterations, min_iterations, eta)
    return _shortest(rates)


def _shortest(rates: Sequence[float]) -> tuple[float, ...]:
    same = next((place for place, rate in enumerate(rates) if rate != rates[0]), len(rates))
    return tuple(rates[same - 1 :])


def text_of(rates: Sequence[float]) -> str:
    """Return rates as they are typed, in so many digits that others have another text."""
    return ",".join(short if float(short := f"{rate:g}") == rate else repr(float(rate)) for rate in rates)


def _of_each(rates: Sequence[float], rungs: int) -> list[float]:
    return [rates[0]] * (rungs - len(rates)) + list(rates)
