"""Which setting a trial gets: a pure function of the search's settings, the trial's number and the trial table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stantune.errors import UsageError
from stantune.search.plan.observations import Observations, observations_of
from stantune.search.plan.values import PastTrial, TrialRow
from stantune.search.propose.given import enqueued_settings, fixed_values, past_of, with_fixed
from stantune.search.propose.sampler import Asked, Seen, sampler_of
from stantune.space import Space

if TYPE_CHECKING:
    # Which takes samplers from beside us.
    from stantune.search.settings import SearchSettings


class Proposals:
    """Proposes the settings of a search: those that are enqueued, then an earlier search's best, then a sampler's.

    The same table gives the same proposals, whichever way it came about; what is remembered only saves time.
    """

    def __init__(self, space: Space, settings: SearchSettings) -> None:
        """Propose for a search of `space` with these settings.

        Raises:
            UsageError: a setting that is enqueued, or a value that is fixed, does not lie in the space.
        """
        self._space = space
        self._settings = settings
        self._sampler = sampler_of(settings.sampler)
        self._plan = settings.plan()
        self._fixed = fixed_values(space, settings.fixed)
        # What is left for the sampler; the space itself where nothing is fixed.
        self._left = space.without(self._fixed) if self._fixed else space
        self._enqueued = enqueued_settings(space, self._fixed, settings.enqueue)
        self._past: tuple[PastTrial, ...] = ()
        self._given: Sequence[PastTrial] = ()
        if settings.start is not None:
            self._past = (
                past_of(self._left, self._fixed, settings.start.trials) if self._fixed else settings.start.trials
            )
            there = {trial.number for trial in self._past}
            self._given = [trial for trial in settings.start.best if trial.number in there]
        self._resources = tuple(sorted({rung.iterations for bracket in self._plan for rung in bracket.rungs}))
        # The history by how much of the paper it is, with who is overtaken there.
        self._seen: tuple[int, tuple[Seen, ...], Mapping[int, Sequence[int]]] = (0, (), {})

    def begins(self, rows: Sequence[TrialRow]) -> int:
        """Return how many trials may begin: for the number of the first that may not, a result is missing yet."""
        return self._observations.begins(rows) if self._sampler.waits else self._trials

    def started_from(self, number: int) -> int | None:
        """Return which trial of the earlier search gives this one its setting, None where none does."""
        past = self._from_earlier(number)
        return None if past is None else past.number

    def propose(self, number: int, rows: Sequence[TrialRow]) -> dict[str, Any]:
        """Return the setting of trial `number`, which must be one that may begin.

        Raises:
            UsageError: the sampler proposed what does not lie in the space.
        """
        if number < len(self._enqueued):
            return dict(self._enqueued[number])
        past = self._from_earlier(number)
        if past is not None:
            return dict(past.params)
        proposed = self._sampler.propose(self._asked(number, rows))
        try:
            if not isinstance(proposed, Mapping):
                raise UsageError(f"it is a {type(proposed).__name__} and no dict of parameters and their values")
            return with_fixed(self._space, self._fixed, self._left.check(proposed, complete=True))
        except UsageError as error:
            raise UsageError(
                f"what the sampler {self._sampler.name!r} proposed for trial {number} is no setting: {error}"
            ) from None

    @cached_property
    def _observations(self) -> Observations:
        """What samplers that wait see; the others need no paper, which takes a while to write for many trials."""
        return observations_of(self._plan, self._settings.lag)

    @property
    def _trials(self) -> int:
        """So many, or fewer where a bracket is open: its widest is counted."""
        return sum(bracket.rungs[0].trials for bracket in self._plan)

    def _from_earlier(self, number: int) -> PastTrial | None:
        """Return the trial of the earlier search whose setting this one is given."""
        place = number - len(self._enqueued)
        return self._given[place] if 0 <= place < len(self._given) else None

    def _asked(self, number: int, rows: Sequence[TrialRow]) -> Asked:
        if not self._sampler.waits:
            return Asked(self._left, self._settings.seed, number, (), self._resources, {}, self._past)
        seen = self._observations.seen_by(number)
        # Ours look at a little less, so that they need not make a model for each trial.
        renewed = getattr(self._sampler, "renewed", None)
        seen = seen if renewed is None else renewed(seen)
        if self._seen[0] != seen:
            self._seen = seen, *self._history(seen, rows)
        _, history, overtaken = self._seen
        return Asked(self._left, self._settings.seed, number, history, self._resources, overtaken, self._past)

    def _history(self, seen: int, rows: Sequence[TrialRow]) -> tuple[tuple[Seen, ...], Mapping[int, Sequence[int]]]:
        """Return the results that so much of the paper has, and of each resource who was not promoted to it."""
        observations = self._observations.first(seen, rows)
        params = {
            number: {name: value for name, value in rows[number].params.items() if name in self._left}
            for number in {observation.number for observation in observations}
        }
        history = tuple(Seen(number, params[number], at, error) for number, at, error in observations)
        return history, {at: tuple(self._observations.overtaken(observations, at)) for at in self._resources}
