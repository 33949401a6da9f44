"""Where a search stands, from what its directory holds: a snapshot in numbers, and all searches below a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from stantune.errors import StantuneError, UsageError
from stantune.protocols import Metric
from stantune.search.operating.told import (
    BracketStatus,
    FailureNow,
    FoundSearch,
    ListResult,
    RungStatus,
    StatusResult,
    TrainingNow,
)
from stantune.search.plan.coordinator import rungs
from stantune.search.plan.standings import incumbent, iterations_trained, status
from stantune.search.results.contract import Counts, Leader, MetricResult
from stantune.search.results.summary import VALIDATION, cost_seconds
from stantune.search.table.looking.look import Seen, look
from stantune.search.telling.progress import iterations_left
from stantune.texts import encodable

# Failures that are told of.
LAST = 5


def status_of(seen: Seen, now: float | None = None) -> StatusResult:
    """Return where a search stands; `now` is the time in seconds since 1970."""
    now = time.time() if now is None else now
    counts, known, rows = status(seen.plan, seen.rows), seen.run, seen.rows
    ended = None if known is None or seen.running else known.ended
    until = now if seen.running else ended if ended is not None else known.seen if known else now
    failures = [
        FailureNow(
            trial=row.number,
            iterations=failure.stop,
            cause=failure.cause,
            for_good=row.failed is not None and failure is row.failures[-1],
        )
        for row in rows
        for failure in row.failures
    ]
    return StatusResult(
        directory=str(seen.directory.path),
        problem=seen.problem,
        state=seen.state,
        metric=metric_result(seen.metric),
        unit=seen.unit,
        counts=Counts(
            trials=len(rows),
            promoted=counts.promoted,
            dropped=counts.dropped,
            diverged=counts.diverged,
            failed=counts.failed,
            duplicates=sum(row.duplicate for row in rows),
            retries=sum(len(row.failures) - (row.failed is not None) for row in rows),
        ),
        trials_planned=seen.trials_planned,
        brackets=_brackets(seen),
        finals=len(seen.finals),
        finals_planned=len(seen.finals) + seen.finals_left,
        training=[
            TrainingNow(trial=each.trial, iterations=each.at, stop=each.stop, final=each.final)
            for each in (known.training if known is not None and seen.running else ())
        ],
        workers=known.places if known is not None and seen.running else None,
        process=None if known is None else known.process,
        host=None if known is None else known.host,
        begun=None if known is None else _moment(known.begun),
        ended=None if ended is None else _moment(ended),
        failure=None if known is None or seen.running else known.failure,
        seconds=cost_seconds(seen.cost),
        seconds_run=None if known is None else max(until - known.begun, 0.0),
        seconds_left=_seconds_left(seen),
        best=_best(seen),
        failures=failures[-LAST:],
    )


def metric_result(metric: Metric) -> MetricResult:
    """Return a metric in the terms of the JSON contract."""
    return MetricResult(name=metric.name, direction=metric.direction, unit=metric.unit)


def searches_below(folder: Path) -> ListResult:
    """Return all searches in a folder and below, the one that was written last first; links are not followed.

    Raises UsageError where there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give one with searches below it")
    found = sorted(((_changed(path), path) for path in _directories(folder)), reverse=True)
    return ListResult(
        folder=encodable(str(folder)), searches=[one for at, path in found if (one := _found(path, at)) is not None]
    )


def _found(path: Path, changed: float) -> FoundSearch | None:
    """Say in short what a directory holds; None where that is no search."""
    told = FoundSearch(
        directory=encodable(str(path)),
        problem=None,
        state=None,
        trials=None,
        trials_planned=None,
        metric=None,
        best=None,
        changed=_moment(changed),
        error=None,
    )
    try:
        seen = look(path)
    except UsageError:
        return None
    except StantuneError as error:
        return told.model_copy(update={"error": encodable(str(error))})
    best = incumbent(seen.rows, seen.whole)
    return told.model_copy(
        update={
            "problem": encodable(seen.problem),
            "state": seen.state,
            "trials": len(seen.rows),
            "trials_planned": seen.trials_planned,
            "metric": metric_result(seen.metric),
            "best": None if best is None else seen.metric.loss(best.error),
        }
    )


def _directories(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        # A search's own folders hold none, and hidden ones are somebody's caches.
        folders[:] = sorted(name for name in folders if name != "checkpoints" and not name.startswith("."))
        if "search.json" in files or "search.db" in files:
            yield Path(place)


def _changed(path: Path) -> float:
    """Return when a search's files were written last."""
    times = []
    for name in ("search.json", "search.db", "search.db-wal", "last-run.json", "result.json"):
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _brackets(seen: Seen) -> list[BracketStatus]:
    begun = {(state.place, state.index): state for state in rungs(seen.plan, seen.rows)}
    brackets = []
    for place, bracket in enumerate(seen.plan):
        told = []
        for index, rung in enumerate(bracket.rungs):
            state = begun.get((place, index))
            told.append(
                RungStatus(
                    iterations=rung.iterations,
                    trials=rung.trials,
                    done=0 if state is None else len(state.results),
                    diverged=0 if state is None else sum(result.diverged for result in state.results),
                    promoted=0 if state is None else len(state.promoted),
                )
            )
        brackets.append(BracketStatus(s=bracket.s, rungs=told))
    return brackets


def _best(seen: Seen) -> Leader | None:
    best = incumbent(seen.rows, seen.whole)
    if best is None:
        return None
    value = seen.metric.loss(best.error)
    return Leader(
        trial=best.number,
        params=dict(best.params),
        value=value,
        metrics=dict(seen.rows[best.number].metrics.get(best.iterations, {})),
        validation_error=value if seen.metric.name == VALIDATION else None,
        iterations=best.iterations,
        validation_share=best.share,
    )


def _seconds_left(seen: Seen) -> float | None:
    """Return the time left with as many trainings side by side as now, or in the last run."""
    if seen.state == "done":
        return None
    # Final trainings that take their trials' weights as they are train nothing.
    each_final = seen.final_trained
    trained = iterations_trained(seen.rows)
    trained += sum(final.iterations for final in seen.finals.values()) if each_final else 0
    spent = cost_seconds(seen.cost).total
    if not trained or not spent:
        return None
    left = iterations_left(seen.plan, seen.rows) + seen.finals_left * each_final
    for each in seen.run.training if seen.run is not None and seen.running else ():
        if each.final and not each_final:
            continue
        reached = [] if each.final or each.trial >= len(seen.rows) else seen.rows[each.trial].errors
        before = max((stop for stop in reached if stop < each.stop), default=0)
        left -= max(each.at - before, 0)
    places = seen.run.places if seen.run is not None else 1
    return max(left, 0) * spent / trained / max(places, 1)
