"""What a search takes from an earlier one: its results as observations, its best settings as the first trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stantune.errors import UsageError
from stantune.search.plan.standings import ranking
from stantune.search.plan.values import PastTrial, TrialRow, WarmStart
from stantune.search.propose.given import has_fixed
from stantune.space import Space

# Of an earlier search with more trials than this, the best BEST and the newest of the others are taken.
MOST = 1000
BEST = 250


def warm_start(
    path: str,
    label: str,
    rows: Sequence[TrialRow],
    there: Mapping[str, Any],
    space: Space,
    best: int,
    whole: int,
    fixed: Mapping[str, Any],
) -> WarmStart:
    """Choose what a new search takes from the trial table of an earlier one.

    Args:
        path: the earlier search's directory.
        label: what tells it from others.
        rows: its trial table.
        there: its space, as `Space.as_json` describes it.
        space: the new search's; its ranges may differ, and settings outside of them are left out.
        best: how many of the best settings are tried first.
        whole: the earlier search's R, by which its best trial is known.
        fixed: parameters that have one value in the new search; settings with others are left out, if any have them.

    Raises:
        UsageError: the spaces have other parameters, or nothing of the table lies in the new space.
    """
    difference = _difference(there, space)
    if difference:
        raise UsageError(
            f"the search in {path} cannot be started from, because its space is another one ({difference}); start from "
            "one with the same parameters, or leave `start_from` away"
        )
    known = {row.number: row for row in rows if (row.errors or row.diverged_at is not None) and _fits(row, space)}
    if not known:
        raise UsageError(
            f"the search in {path} has no result of a setting that lies in this space; start from another one, or "
            "leave `start_from` away"
        )
    # Where no setting has the fixed values, as a number that is fixed may be nobody's, none of them can be tried.
    known = {number: row for number, row in known.items() if has_fixed(row.params, fixed)} or known
    standings = ranking(list(known.values()), whole)
    # A setting that several trials had is tried once.
    ranked = [standing.number for standing in standings if not standing.surpassed][:BEST]
    chosen = set(known)
    if len(known) > MOST:
        others = [number for number in known if number not in ranked]
        chosen = {*ranked, *others[len(ranked) - MOST :]}
    trials = {number: _past(known[number]) for number in sorted(chosen)}
    return WarmStart(path, label, tuple(trials.values()), tuple(trials[number] for number in ranked[:best]))


def _past(row: TrialRow) -> PastTrial:
    results: dict[int, float | None] = dict(sorted(row.errors.items()))
    if row.diverged_at is not None:
        results[_rung_of_divergence(row)] = None
    return PastTrial(row.number, dict(row.params), results)


def _rung_of_divergence(row: TrialRow) -> int:
    """Return the end of the rung in which the trial diverged: its last result, trained for or taken over."""
    return max((*row.costs, *row.taken))


def _fits(row: TrialRow, space: Space) -> bool:
    try:
        space.check(row.params, complete=True)
    except UsageError:
        return False
    return True


def _difference(there: Mapping[str, Any], space: Space) -> str:
    """Say in which parameter the spaces differ, "" where they differ in ranges at most."""
    # As a table has it, which has no tuples.
    here, there = (json.loads(json.dumps(each)) for each in (space.as_json(), there))
    for name in {**here, **there}:
        if name not in there:
            return f"it has no {name}"
        if name not in here:
            return f"it has {name}, which this one lacks"
        if there[name]["kind"] != here[name]["kind"]:
            return f"{name} is of kind {there[name]['kind']} there and {here[name]['kind']} here"
        if there[name].get("when") != here[name].get("when"):
            return f"{name} exists under other conditions there"
    return ""
