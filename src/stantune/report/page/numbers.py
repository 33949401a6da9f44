"""Makes the numbers of the report page of a search's table."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from stantune.compare.study.contract import StudySummary
from stantune.outcome import Cost, total
from stantune.protocols import Metric
from stantune.report.page.contract import (
    BestSoFar,
    Curves,
    Entries,
    FailureCause,
    LossCurves,
    ParameterColumn,
    Profiled,
    Reduced,
    ReportNumbers,
    RungFlow,
    SearchNumbers,
    Trials,
)
from stantune.report.page.importance import importance_of
from stantune.report.page.sections.foretold import foretold
from stantune.report.page.sections.repeating import call_of
from stantune.search.plan.coordinator import rungs
from stantune.search.plan.standings import ranking, status
from stantune.search.plan.values import TrialRow
from stantune.search.results.contract import SearchSummary, TrialFailure
from stantune.search.results.summary import Described, sound_cost
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table.start_from import label_of
from stantune.search.table.storages.masking import without_secrets

# Pictures of settings show so many trials: the best ones, and of the others as many as there is room for.
SAMPLE, BEST_OF_SAMPLE = 1500, 300
# The picture of losses shows so many trials: the best, and evenly of the others, lost ones among them.
LOSSES, BEST_OF_LOSSES = 200, 100
STATUSES = ("dropped", "promoted", "running", "diverged", "failed", "finished")
# What a table notes of STAN.
_STAN = (
    "rate",
    "rates",
    "period",
    "pretrain",
    "tail",
    "stan-iterations",
    "pattern",
    "tolerance",
    "layers",
    "memo",
    "linear",
    "meprop",
    "offset_sets",
    "native",
)


def report_numbers(searches: Sequence[SearchNumbers], study: StudySummary | None = None) -> ReportNumbers:
    """Return the numbers of a page of several searches, side by side, and of the study that they are of."""
    return ReportNumbers(versions=_versions(), searches=list(searches), study=study)


def search_numbers(
    objective: Described,
    settings: SearchSettings,
    state: SearchState,
    identity: Mapping[str, Any],
    directory: Path,
    now: Literal["running", "interrupted", "done"],
    *,
    summary: SearchSummary,
    machine: Mapping[str, str],
    profiled: Profiled | None = None,
    entries: Entries | str | None = None,
) -> SearchNumbers:
    """Return the numbers of one search.

    Args:
        objective: what was searched.
        settings: the search's.
        state: its table, complete or not.
        identity: all that the table depends on, with the space, in plain values.
        directory: where it is, for people.
        now: where it stands, in a word.
        summary: as result.json has it.
        machine: where it ran last, and with which versions.
        profiled: what was predicted of its iterations.
        entries: what the winner's layers compute, or why that is not shown.
    """
    space = identity.get("space", {})
    standing = status(state.plan, state.rows).trials
    losing = _with_losses(state)
    important = importance_of(state.rows, space, state.metric)
    return SearchNumbers(
        name=directory.name or str(directory),
        directory=str(directory),
        state=now,
        summary=summary,
        trials=_trials(state.rows, standing, space, state.metric),
        sample=_sample(state),
        curves=[
            curves
            for each in STATUSES
            if (curves := _curves(each, [row for row in state.rows if standing[row.number] == each], state.metric)).at
        ],
        losses=[
            losses
            for each in STATUSES
            if (losses := _losses(each, [row for row in losing if standing[row.number] == each])).at
        ],
        losses_shown=len(losing),
        flow=list(_flow(state)),
        best=_best_so_far(state),
        importance=None if isinstance(important, str) else important,
        without_importance=important if isinstance(important, str) else None,
        stan=None if objective.rate is None else _stan(state, identity),
        profiled=profiled,
        entries=None if isinstance(entries, str) else entries,
        without_entries=entries if isinstance(entries, str) else None,
        foretold=foretold(state, settings),
        causes=_causes(summary.failures),
        machine=dict(machine),
        identity=without_secrets({name: value for name, value in identity.items() if name != "space"}),
        space=dict(space),
        digest=label_of(identity),
        call=call_of(settings, identity, directory),
    )


def _trials(rows: Sequence[TrialRow], standing: Mapping[int, str], space: Mapping[str, Any], metric: Metric) -> Trials:
    return Trials(
        status=[standing[row.number] for row in rows],
        bracket=[row.bracket for row in rows],
        reached=[row.reached for row in rows],
        value=[_value(row, metric) for row in rows],
        seconds=[_six(_seconds(total(list(row.costs.values())))) for row in rows],
        params=[_column(name, described, rows) for name, described in space.items()],
    )


def _value(row: TrialRow, metric: Metric) -> float | None:
    """Return what a trial is worth; None where that does not count."""
    if not row.errors or row.diverged_at is not None or row.failed is not None:
        return None
    return _six(metric.loss(row.errors[max(row.errors)]))


def _column(name: str, described: Mapping[str, Any], rows: Sequence[TrialRow]) -> ParameterColumn:
    values = [row.params.get(name) for row in rows]
    if described["kind"] != "categorical":
        numbers = [None if value is None else _six(value) for value in values]
        return ParameterColumn(
            name=name, kind=described["kind"], log=bool(described["log"]), choices=[], untried=[], values=numbers
        )
    # As texts: True is not 1, and of a tuple JSON makes a list.
    places = {json.dumps(choice): place for place, choice in enumerate(described["choices"])}
    texts = [str(choice) for choice in described["choices"]]
    found = [places.get(json.dumps(row.params[name])) if name in row.params else None for row in rows]
    tried = set(found)
    return ParameterColumn(
        name=name,
        kind="categorical",
        log=False,
        choices=texts,
        untried=[text for place, text in enumerate(texts) if place not in tried],
        values=[None if place is None else float(place) for place in found],
    )


def _sample(state: SearchState) -> list[int]:
    """Return the trials that pictures of settings show: all, where they are not too many."""
    best = [standing.number for standing in ranking(state.rows, state.whole)]
    if len(best) <= SAMPLE:
        return sorted(best)
    others = best[BEST_OF_SAMPLE:]
    room = SAMPLE - BEST_OF_SAMPLE
    return sorted(best[:BEST_OF_SAMPLE] + [others[place * len(others) // room] for place in range(room)])


def _curves(each: str, rows: Sequence[TrialRow], metric: Metric) -> Curves:
    at: list[int | None] = []
    value: list[float | None] = []
    trial: list[int | None] = []
    for row in rows:
        if row.errors:
            stops = sorted(row.errors)
            # The null ends its line.
            at += [*stops, None]
            value += [*(_six(metric.loss(row.errors[stop])) for stop in stops), None]
            trial += [*(row.number for _ in stops), None]
    return Curves(status=each, at=at, value=value, trial=trial)


def _with_losses(state: SearchState) -> list[TrialRow]:
    """Return the trials whose losses are shown."""
    ranked = [standing.number for standing in ranking(state.rows, state.whole)]
    counted = set(ranked)
    order = ranked + [row.number for row in state.rows if row.number not in counted]
    found = [state.rows[number] for number in order if state.rows[number].losses]
    if len(found) > LOSSES:
        others, room = found[BEST_OF_LOSSES:], LOSSES - BEST_OF_LOSSES
        found = found[:BEST_OF_LOSSES] + [others[place * len(others) // room] for place in range(room)]
    return sorted(found, key=lambda row: row.number)


def _losses(each: str, rows: Sequence[TrialRow]) -> LossCurves:
    at: list[int | None] = []
    mean: list[float | None] = []
    trial: list[int | None] = []
    for row in rows:
        points = row.loss_curve.points
        # The null ends its line.
        at += [*(count for count, _ in points), None]
        mean += [*(value for _, value in points), None]
        trial += [*(row.number for _ in points), None]
    return LossCurves(status=each, at=at, mean=mean, trial=trial)


def _flow(state: SearchState) -> Iterator[RungFlow]:
    for rung in rungs(state.plan, state.rows):
        lost = [result.number for result in rung.results if result.diverged]
        failed = sum(state.rows[number].failed is not None for number in lost)
        going = len(rung.promoted)
        stopped = len(set(rung.stopped) - set(lost))
        yield RungFlow(
            bracket=rung.bracket,
            iterations=rung.stop,
            promoted=going,
            finished=stopped if rung.last else 0,
            dropped=0 if rung.last else stopped,
            diverged=len(lost) - failed,
            failed=failed,
            # Those with a result of whom it is not decided what becomes wait for the others.
            open=len(rung.pending) + len(rung.results) - len(lost) - going - stopped,
        )


def _best_so_far(state: SearchState) -> BestSoFar:
    best = BestSoFar(iterations=[], seconds=[], value=[], trial=[])
    lowest, iterations, seconds = None, 0, 0.0
    # How far each trial was trained for itself: what was taken over took nothing.
    trained = dict.fromkeys((row.number for row in state.rows), 0)
    number = None
    for rung in rungs(state.plan, state.rows):
        for result in sorted(rung.results):
            number, row = result.number, state.rows[result.number]
            seconds += _seconds(row.costs.get(rung.stop, Cost()))
            if rung.stop not in row.taken:
                end = row.reached if result.diverged else rung.stop
                iterations += end - trained[number]
                trained[number] = end
            if rung.stop in row.shares:
                # By a part of the validation set: not to be compared with what was measured by all of it.
                continue
            if result.error is not None and not result.diverged and (lowest is None or result.error < lowest):
                lowest = result.error
                _add(best, iterations, seconds, state.metric.loss(lowest), number)
    if lowest is not None and best.iterations[-1] < iterations:
        # Where it stands now, so that the line goes on to the end.
        _add(best, iterations, seconds, best.value[-1], best.trial[-1])
    return best


def _add(best: BestSoFar, iterations: int, seconds: float, value: float, trial: int) -> None:
    best.iterations.append(iterations)
    best.seconds.append(_six(seconds))
    best.value.append(value)
    best.trial.append(trial)


def _causes(failures: Sequence[TrialFailure]) -> list[FailureCause]:
    found: dict[str, FailureCause] = {}
    for each in failures:
        one = found.setdefault(each.cause, FailureCause(cause=each.cause, trials=[], iterations=[]))
        one.trials.append(each.trial)
        one.iterations.append(each.iterations)
    return sorted(found.values(), key=lambda cause: -len(cause.trials))


def _stan(state: SearchState, identity: Mapping[str, Any]) -> Reduced:
    costs = [cost for row in state.rows for cost in row.costs.values()]
    whole = total(costs + [final.cost for final in state.finals.values()])
    sound = sound_cost(state)
    plan = identity.get("plan") or {}
    noted = identity.get("stan") or {name: identity[name] for name in _STAN if name in identity}
    return Reduced(
        exact=whole.exact,
        exact_seconds=sound.exact_seconds / sound.exact if sound.exact else None,
        reduced=whole.reduced,
        reduced_seconds=sound.reduced_seconds / sound.reduced if sound.reduced else None,
        layers={layer: ", ".join(patterns) or "every entry" for layer, patterns in dict(plan).items()},
        settings={name: value for name, value in noted.items() if value is not None},
    )


def _seconds(cost: Cost) -> float:
    return cost.training_seconds + cost.evaluation_seconds + cost.coordination_seconds


def _six(number: float) -> float:
    """Return a number with the six digits that the page has of each of many, a whole number with all of its own."""
    return number if isinstance(number, int) else float(f"{number:.6g}")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("stantune", "torch", "optuna", "plotly"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
