"""A study's searches in a line each: where one stands and what it came to. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator

from stantune.compare.study.contract import StudiedProblem, StudiedSearch
from stantune.protocols import Metric
from stantune.quantities import duration
from stantune.search.operating.told import StatusResult
from stantune.search.plan.finals import NONE as NO_FINALS


def search_line(problem: StudiedProblem, search: StudiedSearch, now: StatusResult | None = None) -> str:
    """Say which search it is and where it stands; `now` is more of one that runs."""
    return f"{search.problem}, {search.way}, seed {search.seed}: {'; '.join(_parts(problem, search, now))}"


def lost_final(problem: StudiedProblem, search: StudiedSearch) -> bool:
    """Tell whether a search that is done has no final value although it had final trainings: they all diverged."""
    return search.state == "done" and search.best is not None and search.final is None and problem.final != NO_FINALS


def _parts(problem: StudiedProblem, search: StudiedSearch, now: StatusResult | None) -> Iterator[str]:
    failed = "" if search.failure is None else f" ({search.failure})"
    spent = "" if search.seconds is None else f", {duration(search.seconds.total)}"
    yield f"{search.state}{failed}{spent}"
    if search.trials:
        planned = "" if now is None else f" of {now.trials_planned}"
        yield f"{search.trials}{planned} trials, {search.diverged} diverged"
    metric = Metric(problem.metric.name, problem.metric.direction, problem.metric.unit)
    if search.best is not None:
        yield f"best {metric.name} {metric.text(search.best)}"
    if search.final is not None:
        test = Metric(problem.test or metric.name, metric.direction, metric.unit)
        after = [f"{metric.name} {metric.text(search.final)}"]
        if search.test is not None:
            after.append(f"{test.name} {test.text(search.test)}")
        yield f"after the final training {', '.join(after)}"
    elif lost_final(problem, search):
        yield "its final training diverged"
    if now is not None:
        yield from (f"trial {each.trial}: {now.unit} {each.iterations} of {each.stop}" for each in now.training)
        if now.seconds_left is not None:
            yield f"about {duration(now.seconds_left)} left"
