"""What a study holds as rows of the trial table and as final results: only what a search writes there is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.loss_curve import KEPT, LossCurve
from stantune.outcome import Cost
from stantune.protocols import Metric
from stantune.search.plan.hyperband import Bracket, bracket_of
from stantune.search.plan.measured import OpenBracket
from stantune.search.plan.values import Ending, FinalResult, SegmentFailure, TrialRow
from stantune.search.propose.sampling import from_distribution, from_optuna
from stantune.search.table.attributes import (
    BRACKET,
    COST,
    DIVERGED_AT,
    FAILED,
    FAILURES,
    FINAL,
    LOSSES,
    METRICS,
    SHARE,
    STARTED_FROM,
    TAKEN,
)
from stantune.space import Space
from stantune.texts import brief, one_line

STATES: dict[Ending, TrialState] = {
    "finished": TrialState.COMPLETE,
    "dropped": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class ImpossibleError(Exception):
    """A value in the table is none that a search writes there."""


def row_of(
    trial: FrozenTrial,
    metric: Metric,
    rows: Sequence[TrialRow],
    space: Space | None = None,
    plan: Sequence[Bracket] | None = None,
) -> TrialRow:
    """Return what a trial of ours holds.

    Args:
        trial: as the study has it.
        metric: what trials are compared by.
        rows: the trials before it.
        space: of the settings, and
        plan: the search's brackets, as far as `rows` say which they are; None where they are not known.

    Raises:
        ImpossibleError: no search writes this.
    """
    attributes, of = trial.user_attrs, f"trial {trial.number}"
    params = from_optuna(trial.params)
    if space is not None:
        try:
            space.check(params, complete=True)
        except UsageError as error:
            raise ImpossibleError(f"the setting of {of} cannot be: {error}") from None
    bracket = _number(attributes[BRACKET], f"{BRACKET} of {of}")
    rungs = None
    if plan is not None:
        # A trial beyond the plan is one more of any bracket.
        planned = bracket_of(plan, trial.number) or next((each for each in plan if each.s == bracket), None)
        if isinstance(planned, OpenBracket):
            raise ImpossibleError(f"{of} is there before those are through by which its bracket is chosen")
        if planned is None or planned.s != bracket:
            right = "the search has no such bracket" if planned is None else f"it begins in bracket {planned.s}"
            raise ImpossibleError(f"{BRACKET} of {of} is {bracket}, and {right}")
        rungs = [rung.iterations for rung in planned.rungs]
    errors = {}
    for stop, value in sorted(trial.intermediate_values.items()):
        _value(value, metric, f"the intermediate value of {of} after {stop}")
        errors[stop] = metric.loss(value)
    if any(stop < 1 for stop in errors) or (rungs is not None and list(errors) != rungs[: len(errors)]):
        there = "" if rungs is None else f", and its rungs end at {', '.join(map(str, rungs))}"
        raise ImpossibleError(f"{of} has intermediate values after {', '.join(map(str, errors))}{there}")
    diverged_at = attributes.get(DIVERGED_AT)
    if diverged_at is not None:
        most = None if rungs is None else 0 if len(errors) == len(rungs) else rungs[len(errors)]
        _number(diverged_at, f"{DIVERGED_AT} of {of}", most)

    def of_rungs(prefix: str) -> dict[int, Any]:
        found = {}
        for key, value in attributes.items():
            if key.startswith(prefix):
                at = key.removeprefix(prefix)
                if not (at.isascii() and at.isdigit()) or (rungs is not None and int(at) not in rungs):
                    raise ImpossibleError(f"{of} has an attribute {brief(key)}, and no rung of its bracket ends there")
                found[int(at)] = value
        # What was noted of a segment that was cut between its attributes and its error never was.
        return {at: value for at, value in found.items() if diverged_at is not None or at in errors}

    metrics = {stop: {metric.name: metric.loss(error)} for stop, error in errors.items()}
    for stop, measured in of_rungs(METRICS).items():
        name = f"{METRICS}{stop} of {of}"
        _measured(measured, name)
        if stop in errors and metric.name and not _same(measured.get(metric.name), metric.loss(errors[stop])):
            raise ImpossibleError(f"{name} has not the intermediate value {metric.loss(errors[stop])!r} in it")
        metrics[stop] = measured
    shares = of_rungs(SHARE)
    for stop, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise ImpossibleError(f"{SHARE}{stop} of {of} is {shown(share)}, and it is a share, above 0 and below 1")
    taken = of_rungs(TAKEN)
    for stop, source in taken.items():
        _taken(source, stop, errors.get(stop), diverged_at, params, rows, f"{TAKEN}{stop} of {of}")
    failures, failed = _failures(attributes.get(FAILURES, []), f"{FAILURES} of {of}"), attributes.get(FAILED)
    if failed is not None and not (isinstance(failed, str) and failures):
        raise ImpossibleError(f"{FAILED} of {of} is {shown(failed)}, and its failures are {len(failures)}")
    started_from = attributes.get(STARTED_FROM)
    if started_from is not None:
        _number(started_from, f"{STARTED_FROM} of {of}")
    return TrialRow(
        trial.number,
        bracket,
        params,
        errors,
        diverged_at,
        {stop: _cost(cost, f"{COST}{stop} of {of}") for stop, cost in of_rungs(COST).items()},
        taken=taken,
        failures=failures,
        failed=None if failed is None else one_line(failed),
        started_from=started_from,
        metrics=metrics,
        losses={stop: _losses(losses, f"{LOSSES}{stop} of {of}") for stop, losses in of_rungs(LOSSES).items()},
        shares=shares,
    )


def finals_of(attributes: Mapping[str, Any], metric: Metric, rows: Sequence[TrialRow]) -> dict[int, FinalResult]:
    """Return what the final trainings came to, by their finalists' ranks, from a study's attributes.

    Raises:
        ImpossibleError: no search writes this.
    """
    finals = {}
    for name in sorted(attributes):
        # One that was dropped is none.
        if name.startswith(FINAL) and attributes[name] is not None:
            rank = name.removeprefix(FINAL).removeprefix(":") or "0"
            if not (rank.isascii() and rank.isdigit()):
                raise ImpossibleError(f"the study has an attribute {brief(name)}, and a finalist's rank is a number")
            finals[int(rank)] = _final(attributes[name], name, metric, rows)
    return finals


def _final(plain: Any, name: str, metric: Metric, rows: Sequence[TrialRow]) -> FinalResult:
    if not isinstance(plain, dict):
        raise ImpossibleError(f"{name} is {shown(plain)}")
    try:
        final = FinalResult.from_plain(plain)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ImpossibleError(f"{name} is no result of a final training") from None
    if all(final.params != row.params for row in rows):
        raise ImpossibleError(f"{name} is of the setting {shown(dict(final.params))}, which no trial has")
    _number(final.iterations, f"the iterations in {name}")
    _cost(plain["cost"], f"the cost in {name}")
    told = {f"the metrics in {name}": final.metrics}
    told |= {f"the curve in {name} after {at}": measured for at, measured in final.curve.items()}
    for what, measured in told.items():
        _measured(measured, what)
        if metric.name in measured:
            _value(measured[metric.name], metric, what)
    if final.diverged_at is not None:
        _number(final.diverged_at, f"the divergence in {name}")
    elif metric.name not in final.metrics:
        raise ImpossibleError(f"{name} has no {metric.name}, and says that the training did not diverge")
    _losses(final.losses.plain(), f"the losses in {name}")
    for kept, digest in ((final.kept, final.digest), (final.best_kept, final.best_digest)):
        if not isinstance(kept, bool) or not isinstance(digest, str | None):
            raise ImpossibleError(f"{name} is no result of a final training")
    return final


def _number(value: Any, what: str, most: int | None = None) -> int:
    if type(value) is not int or value < 0 or (most is not None and value > most):
        limit = "" if most is None else f", {most} at most"
        raise ImpossibleError(f"{what} is {shown(value)}, and it is a whole number from 0 on{limit}")
    return value


def _value(value: Any, metric: Metric, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ImpossibleError(f"{what} is {shown(value)}, and it is a finite number")
    if (beyond := metric.beyond(metric.within(value))) is not None:
        raise ImpossibleError(f"{what} is {beyond}")


def _same(measured: Any, value: float) -> bool:
    """Tell whether a number is what became this double when it was written."""
    try:
        return float(measured) == value
    except (TypeError, OverflowError):
        return False


def _measured(measured: Any, what: str) -> None:
    if not isinstance(measured, dict):
        raise ImpossibleError(f"{what} is {shown(measured)}")
    for name, value in measured.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ImpossibleError(f"{what} has {shown(value)} as its {name}, which is no number")


def _cost(plain: Any, what: str) -> Cost:
    counts = plain if isinstance(plain, dict) else {"": plain}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ImpossibleError(f"{what} has {shown(value)} as its {name or 'value'}, which nothing costs")
    return Cost.from_plain(counts)


def _losses(plain: Any, what: str) -> LossCurve:
    try:
        curve = LossCurve.from_plain(plain)
        counts = (curve.every, curve.end, curve.begin)
        sound = all(type(count) is int for count in counts) and curve.every > 0 and curve.begin >= 0
        places = -(-(curve.end - curve.begin) // curve.every)
        numbers = all(type(mean) in (int, float) and math.isfinite(mean) for mean in curve.means)
        sound = sound and numbers and len(curve.means) == places <= KEPT
    except (KeyError, TypeError, ValueError, ArithmeticError):
        sound = False
    if not sound:
        raise ImpossibleError(f"{what} is {shown(plain)}, which is no curve of losses")
    return curve


def _taken(
    source: Any,
    stop: int,
    error: float | None,
    diverged_at: int | None,
    params: Mapping[str, Any],
    rows: Sequence[TrialRow],
    what: str,
) -> None:
    if type(source) is not int or not 0 <= source < len(rows) or rows[source].params != params:
        raise ImpossibleError(f"{what} is {shown(source)}, which is no earlier trial with the same setting")
    there = rows[source]
    if there.errors.get(stop) != error or (error is None and there.diverged_at != diverged_at):
        raise ImpossibleError(f"{what} is {source}, which has another result there")


def _failures(plain: Any, what: str) -> tuple[SegmentFailure, ...]:
    if not isinstance(plain, list):
        raise ImpossibleError(f"{what} are {shown(plain)}")
    for failure in plain:
        # The third is there where a checkpoint was damaged, and in no table of before.
        sound = isinstance(failure, list) and (len(failure) == 2 or (len(failure) == 3 and failure[2] is True))
        if not sound or type(failure[0]) is not int or not isinstance(failure[1], str):
            raise ImpossibleError(f"{what} have {shown(failure)} among them, which is no failure")
    return tuple(SegmentFailure(stop, one_line(cause), *damaged) for stop, cause, *damaged in plain)


def state_of(end: Any) -> TrialState | None:
    """Return the state of a trial whose attribute says so of its end; None where no search says that."""
    # Of a failure the cause is told as well.
    kind = end.partition(":")[0] if isinstance(end, str) else None
    return next((state for ending, state in STATES.items() if ending == kind), None)


def is_of(trial: FrozenTrial, space: Space, known: Mapping[str, BaseDistribution]) -> bool:
    """Tell whether a trial has the parameters that exist in its setting, with their distributions.

    `known` are those of the space: choices that are the same need not be taken apart in each trial, however many.
    """
    found = {
        name: space[name] if _has_choices_of(known.get(name), distribution) else from_distribution(distribution)
        for name, distribution in trial.distributions.items()
    }
    return found == {name: space[name] for name in space.active(from_optuna(trial.params))}


def _has_choices_of(known: BaseDistribution | None, distribution: BaseDistribution) -> bool:
    return (
        isinstance(known, CategoricalDistribution)
        and isinstance(distribution, CategoricalDistribution)
        and distribution.choices == known.choices
    )
