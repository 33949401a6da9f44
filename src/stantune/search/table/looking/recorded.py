"""What a search that was looked at was called with, as far as its table tells it; its objective is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from stantune.protocols import Metric
from stantune.search.plan.values import WarmStart, with_tuples
from stantune.search.propose.sampler import SAMPLERS, Asked, Sampler
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table.looking.look import Seen

_RATES = "stan:"


@dataclass(frozen=True)
class RecordedObjective:
    """What a table tells of what was searched; see protocols.Objective, which can train as well."""

    name: str
    metric: Metric
    unit: str
    rate: float | Literal["auto"] | None
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class _RecordedSampler:
    """Stands for a sampler of the user's own, of which the table has the name."""

    name: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = True

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        """See Sampler."""
        raise NotImplementedError(f"the sampler {self.name} is the user's own")


class Recorded(NamedTuple):
    """A search as a call of `tune` has it, without what trains.

    Attributes:
        objective: what was searched.
        settings: what the result depends on.
        state: the trial table and the final trainings.
        identity: all that the table depends on, as it was written when the search began.
    """

    objective: RecordedObjective
    settings: SearchSettings
    state: SearchState
    identity: Mapping[str, Any]


def recorded(seen: Seen) -> Recorded:
    """Return the search that was looked at."""
    rates = _rates(seen.identity)
    rate = max(rates) if rates else seen.identity.get("rate")
    objective = RecordedObjective(seen.problem, seen.metric, seen.unit, rate, seen.identity)
    over = seen.trials_over and not seen.finals_left
    state = SearchState(seen.plan, seen.rows, seen.finals, seen.metric, over, final_training=seen.final_training)
    return Recorded(objective, settings_of(seen.identity), state, seen.identity)


def settings_of(identity: Mapping[str, Any]) -> SearchSettings:
    """Return the settings that a search with this identity was begun with, as far as its table depends on them."""
    name, label, brackets = identity.get("sampler", "random"), identity.get("start-from"), identity.get("brackets")
    sampler: str | Sampler = name
    if name not in SAMPLERS:
        sampler = _RecordedSampler(name, identity.get("sampler-settings", {}))
    return SearchSettings(
        seed=identity["seed"],
        max_resource=identity["max-iterations"],
        min_resource=identity["min-iterations"],
        eta=identity["eta"],
        plan_name=identity.get("search-plan", "hyperband"),
        brackets=brackets if isinstance(brackets, int) else None,
        variant=identity["variant"],
        mode=identity.get("mode", "sync"),
        trials=identity.get("trials"),
        sampler=sampler,
        lag=identity.get("lag", 16),
        start=None if label is None else WarmStart("", label, (), ()),
        enqueue=tuple(map(with_tuples, identity.get("enqueue", ()))),
        fixed=with_tuples(identity.get("fixed", {})),
        process=identity.get("process", {}),
        rates=_rates(identity),
        validation=identity.get("validation", "all"),
        final=identity.get("final", "scratch"),
        final_resource=identity.get("final-iterations"),
        threads=identity.get("threads", 1),
        device=identity.get("device", "cpu"),
    )


def _rates(identity: Mapping[str, Any]) -> tuple[float, ...]:
    accelerate = str(identity.get("accelerate"))
    if not accelerate.startswith(_RATES):
        return ()
    return tuple(float(rate) for rate in accelerate.removeprefix(_RATES).split(","))
