"""What the speed-up equation says of each way beforehand, from layers that are timed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stantune.compare.study.contract import STOCK
from stantune.compare.study.ways import Way
from stantune.errors import StantuneError
from stantune.images.objective import ProblemObjective
from stantune.search.plan.fidelity import chosen_rates
from stantune.search.plan.hyperband import Bracket
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan, annealed
from stantune.stan.planning.plan import fitted, predict
from stantune.stan.planning.timing import ModelTimes
from stantune.training.planning import times_of
from stantune.training.precision import computing_in


def predicted_speedups(
    objective: ProblemObjective, ways: Sequence[Way], settings: SearchSettings, fixed: Mapping[str, Any]
) -> dict[str, float | None]:
    """Time the problem's layers here and now; return of each way how many times faster than stock a trial trains.

    Nothing is predicted of memo, meProp and small images, and of no way where the network's own setting diverges.

    Args:
        objective: the problem.
        ways: how is trained.
        settings: the searches'.
        fixed: parameters that have one value in all of them; of the others the network has what is its own.
    """
    stans: dict[str, tuple[Stan, Way]] = {}
    for way in ways:
        stan = getattr(way.applied(objective, fixed, objective.splits).objective, "stan", None)
        # The kernels that this process has are those that convolve by minimal filtering; and a network that does meProp
        # by itself is not asked for it by STAN's settings.
        if stan is not None and way.winograd and way.resize is None and "meprop" not in (way.stan or {}):
            stans[way.name] = stan, way
    layers = tuple(dict.fromkeys(name for stan, _ in stans.values() for name in stan.layers))
    found: dict[str, float | None] = {way.name: 1.0 if way.name == STOCK else None for way in ways}
    try:
        if stans:
            with computing_in(objective.precision, settings.device):
                times = times_of(objective.problem, fixed, layers, objective.splits, device=settings.device)
            for name, (stan, way) in stans.items():
                found[name] = predicted(fitted(times), stan, rates_of(stan, way, settings), settings)
    except StantuneError:
        # The setting diverges.
        pass
    return found


def rates_of(stan: Stan, way: Way, settings: SearchSettings) -> tuple[tuple[int, float], ...]:
    """Return from which iteration of a trial each rate holds; none where one holds throughout."""
    if stan.rate == "annealed":
        return annealed(settings.max_resource)
    if not way.rates:
        return ()
    chosen = chosen_rates(way.rates, settings.max_resource, settings.min_resource, settings.eta)
    return replace(settings, rates=chosen).rates_from()


def predicted(
    times: ModelTimes, stan: Stan, rates: Sequence[tuple[int, float]], settings: SearchSettings
) -> float | None:
    """Return how many times faster than stock trials train, those of all rungs together, if none diverges.

    Args:
        times: of the layers.
        stan: the way's settings.
        rates: see `rates_of`.
        settings: the search's.
    """
    if not rates:
        return predict(times, stan, settings.max_resource)
    share = trained_at(settings.plan(), [start for start, _ in rates])
    taken = 0.0
    for start, rate in rates:
        faster = predict(times, replace(stan, rate=rate))
        if faster is None:
            return None
        taken += share[start] / faster
    return sum(share.values()) / taken


def trained_at(plan: Sequence[Bracket], starts: Sequence[int]) -> Mapping[int, int]:
    """Return the iterations that a plan trains from each of these points of a trial to the next, of all trials."""
    trained = dict.fromkeys(starts, 0)
    for bracket in plan:
        before = 0
        for rung in bracket.rungs:
            for start, stop in zip(starts, [*starts[1:], rung.iterations], strict=True):
                trained[start] += rung.trials * max(min(stop, rung.iterations) - max(start, before), 0)
            before = rung.iterations
    return trained
