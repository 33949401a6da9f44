"""Which setting a trial gets: a pure function of the search's settings, the trial's number and the trial table."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stantune.search.plan.observations import Observation, observations_of
from stantune.search.plan.values import TrialRow
from stantune.search.propose.sampling import Model, sample
from stantune.search.propose.warm_start import PastTrial
from stantune.search.settings import SearchSettings
from stantune.seeds import derive
from stantune.space import Space

# Optuna's TPE draws its first ten trials at random.
STARTUP = 10
# Falkner et al. (2018): one trial of three is random, and a resource has enough observations from d + 3 on.
RANDOM_SHARE = 1 / 3
MORE_THAN_PARAMETERS = 3
# A model looks at so many observations at most; Optuna's time for a proposal grows with them.
MOST_OBSERVED = 250
# Optuna takes the best tenth of the observations, but at most 25, for good; so these are kept, and the newest others.
KEPT_BEST = 25
# A model is made anew when one result of sixteen is new, so that a long search makes a hundred or two.
RENEWED = 16


class Observed(NamedTuple):
    """A setting as a model sees it."""

    params: Mapping[str, Any]
    error: float


class Proposals:
    """Proposes the settings of a search.

    The same table gives the same proposals, whichever way it came about; what is remembered only saves time.
    """

    def __init__(self, space: Space, settings: SearchSettings) -> None:
        """Propose for a search of `space` with these settings."""
        self._space = space
        self._settings = settings
        self._plan = settings.plan()
        self._past: Sequence[PastTrial] = () if settings.start is None else settings.start.trials
        self._given: Sequence[PastTrial] = () if settings.start is None else settings.start.best
        self._observations = observations_of(self._plan, settings.lag)
        self._resources = sorted({rung.iterations for bracket in self._plan for rung in bracket.rungs})
        self._model: tuple[int, Model | None] = (-1, None)

    def begins(self, rows: Sequence[TrialRow]) -> int:
        """Return how many trials may begin: for the number of the first that may not, a result is missing yet."""
        if self._settings.sampler == "random":
            return sum(bracket.rungs[0].trials for bracket in self._plan)
        return self._observations.begins(rows)

    def started_from(self, number: int) -> int | None:
        """Return which trial of the earlier search gives this one its setting, None where none does."""
        return self._given[number].number if number < len(self._given) else None

    def propose(self, number: int, rows: Sequence[TrialRow]) -> dict[str, Any]:
        """Return the setting of trial `number`, which must be one that may begin."""
        sampler, seed = self._settings.sampler, self._settings.seed
        if number < len(self._given):
            return dict(self._given[number].params)
        share = RANDOM_SHARE if sampler == "bohb" else 0.0
        if sampler == "random" or random.Random(derive("share", seed, number)).random() < share:
            return sample(self._space, seed, number)
        seen = self._observations.seen_by(number)
        seen -= seen % max(1, seen // RENEWED)
        if self._model[0] != seen:
            self._model = seen, self._fit(self._observations.first(seen, rows), rows)
        model = self._model[1]
        return sample(self._space, seed, number) if model is None else model.sample(seed, number)

    def _fit(self, seen: Sequence[Observation], rows: Sequence[TrialRow]) -> Model | None:
        """Make a model of the results that are seen, None where they are too few."""
        observe = self._by_resource if self._settings.sampler == "bohb" else self._by_trial
        observed = observe(seen, rows)
        return None if observed is None else Model(self._space, _fewer(observed))

    def _by_trial(self, seen: Sequence[Observation], rows: Sequence[TrialRow]) -> list[Observed] | None:
        """TPE: each trial once, by its lowest error in any rung, as the search ranks them; one that diverged last."""
        errors: dict[int, float] = {}
        for number, _, error in seen:
            # Taken out first, so that the newest result comes last.
            before = errors.pop(number, math.inf)
            errors[number] = math.inf if error is None else min(before, error)
        past = [Observed(trial.params, trial.lowest) for trial in self._past]
        observed = past + [Observed(rows[number].params, error) for number, error in errors.items()]
        return observed if len(observed) >= STARTUP else None

    def _by_resource(self, seen: Sequence[Observation], rows: Sequence[TrialRow]) -> list[Observed] | None:
        """BOHB: the results at the largest number of iterations at which enough trials have an error.

        Ours are two additions. Who was not promoted that far counts as worse than all who were: among the promoted
        alone, of whom most are good, a model learns little of where the bad ones are. And an earlier search's result
        counts for the most iterations of this search that are not more than its own.
        """
        past: dict[int, list[Observed]] = {iterations: [] for iterations in self._resources}
        for trial in self._past:
            counted = {self._counts_for(iterations): error for iterations, error in trial.results.items()}
            for resource, error in counted.items():
                if resource:
                    past[resource].append(_observed(trial.params, error))
        enough = len(self._space) + MORE_THAN_PARAMETERS
        for iterations in reversed(self._resources):
            there = {number: error for number, at, error in seen if at == iterations}
            found = past[iterations] + [_observed(rows[number].params, error) for number, error in there.items()]
            if sum(math.isfinite(observed.error) for observed in found) >= enough:
                overtaken = self._observations.overtaken(seen, iterations)
                return [_observed(rows[number].params, None) for number in overtaken] + found
        return None

    def _counts_for(self, iterations: int) -> int:
        """Return the most iterations of a rung of this search that are not more than these; 0 where all are more."""
        return max((resource for resource in self._resources if resource <= iterations), default=0)


def _observed(params: Mapping[str, Any], error: float | None) -> Observed:
    return Observed(params, math.inf if error is None else error)


def _fewer(observed: list[Observed]) -> list[Observed]:
    """Return at most MOST_OBSERVED observations, in their order: the best, and of the others the newest."""
    if len(observed) <= MOST_OBSERVED:
        return observed
    ranked = sorted(range(len(observed)), key=lambda place: (observed[place].error, place))
    newest = sorted(ranked[KEPT_BEST:])[KEPT_BEST - MOST_OBSERVED :]
    return [observed[place] for place in sorted((*ranked[:KEPT_BEST], *newest))]
