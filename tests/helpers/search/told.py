"""A search whose trainings are told by hand, in a directory, for the tests of those who look at it."""

from __future__ import annotations

from collections.abc import Callable

from numbers_objective import Numbers

from stantune.outcome import Cost, Outcome
from stantune.protocols import Metric, Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.opening import open_session
from stantune.search.settings import SearchSettings
from stantune.search.workers.executors import Failure

METRIC = Metric("accuracy", "maximize", "%")
NUMBERS = Numbers(name="numbers", length=None, metric=METRIC, unit="epoch")
# Brackets of 9, 5 and 3 trials.
SETTINGS = SearchSettings(seed=1, max_resource=9, min_resource=1, finalists=2)


def value_of(segment: Segment) -> float:
    """Return the accuracy that a segment ends with."""
    return 50.0 + segment.trial % 7 + segment.stop


def outcome(segment: Segment) -> Outcome | Failure:
    """Return what becomes of a segment: trial 3 diverges, trial 5 fails."""
    cost = Cost(exact=segment.stop - segment.start, exact_seconds=2.0 * (segment.stop - segment.start))
    if segment.trial == 3 and not segment.final:
        return Outcome(segment.start, {}, segment.start, False, cost)
    if segment.trial == 5 and not segment.final:
        return Failure("RuntimeError: [these] shapes do not fit")
    return Outcome(segment.stop, {METRIC.name: value_of(segment), "other": 1.0}, None, False, cost)


def play(
    directory: SearchDirectory,
    settings: SearchSettings = SETTINGS,
    most: int = 1000,
    of: Callable[[Segment], Outcome | Failure] = outcome,
) -> None:
    """Run a search, or so many of its segments."""
    with directory.locked(), open_session(NUMBERS, settings, directory, places=3) as session:
        while most and (segment := session.ask()):
            session.tell(segment, of(segment))
            most -= 1
