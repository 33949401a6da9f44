"""What a trial table amounts to: how many trials stand where, their ranking, the iterations trained and spared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stantune.search.plan.coordinator import endings, rungs
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.measured import chosen_plan
from stantune.search.plan.values import TrialRow, setting_key


@dataclass(frozen=True)
class Standing:
    """What a trial is worth: its `error`, the lower the better, after `iterations`, the most that it was trained.

    `share` is how much of the validation set that was measured by. It is `surpassed` where an equal trial came further,
    which is then what is known of the setting.
    """

    number: int
    params: Mapping[str, Any]
    error: float
    iterations: int
    share: float = 1.0
    surpassed: bool = False


@dataclass(frozen=True)
class Status:
    """Where every trial of the table stands, and how many stand where.

    `trials` maps a number to "running" (in its first rung), "promoted" (in a later one), "dropped",
    "diverged", "failed" or "finished". Of the counts, `running` is all that have not ended and `promoted` all that
    were promoted at least once, however they ended.
    """

    trials: Mapping[int, str]
    running: int
    promoted: int
    dropped: int
    diverged: int
    failed: int
    finished: int


def status(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> Status:
    """Say where every trial of the table stands."""
    promoted = {number for state in rungs(plan, rows) for number in state.promoted}
    ended = endings(plan, rows)
    trials: dict[int, str] = {
        row.number: ended.get(row.number, "promoted" if row.number in promoted else "running") for row in rows
    }
    counts = Counter(ended.values())
    return Status(
        trials=trials,
        running=len(trials) - len(ended),
        promoted=len(promoted),
        dropped=counts["dropped"],
        diverged=counts["diverged"],
        failed=counts["failed"],
        finished=counts["finished"],
    )


def ranking(rows: Sequence[TrialRow], whole: int | None = None) -> list[Standing]:
    """Rank the trials by their errors at the most iterations; ties: more iterations, then the smaller number.

    Not by a better one from before: what is said of a setting must be what its weights give.

    The best of those that were trained to `whole`, which is R, comes before all others: of no other one is it known
    what it comes to in the end. So it is for Optuna, to whom only they are complete.

    Results are compared that were measured by as much of the validation set; those by more of it come first.

    A trial that diverged or failed later is left out, however good it was: trained on, its setting does so again. So is
    a duplicate, whose setting and errors another row has.

    A setting is one, however often it was proposed: of its trials the one that came furthest stands for it, and those
    that are surpassed come behind all others. Before these come settings of which another trial diverged.
    """
    count = [row for row in rows if row.errors and row.diverged_at is None and row.failed is None and not row.duplicate]
    keys = {row.number: setting_key(row.params) for row in count}
    # Of those that came as far the first.
    furthest = {keys[row.number]: row.number for row in sorted(count, key=lambda row: (row.reached, -row.number))}
    lost = {setting_key(row.params) for row in rows if row.diverged_at is not None}
    standings = []
    for row in count:
        iterations, surpassed = row.reached, furthest[keys[row.number]] != row.number
        share = row.shares.get(iterations, 1.0)
        standings.append(Standing(row.number, row.params, row.errors[iterations], iterations, share, surpassed))

    def order(one: Standing) -> tuple[Any, ...]:
        return one.surpassed, keys[one.number] in lost, -one.share, one.error, -one.iterations, one.number

    ranked = sorted(standings, key=order)
    best = next((standing for standing in ranked if standing.iterations == whole), None)
    return ranked if best is None else [best, *(standing for standing in ranked if standing is not best)]


def incumbent(rows: Sequence[TrialRow], whole: int | None = None) -> Standing | None:
    """Return the first of the `ranking`, or None where no trial has a result that counts."""
    return next(iter(ranking(rows, whole)), None)


def iterations_trained(rows: Sequence[TrialRow]) -> int:
    """Add up the iterations that were trained for the table; a promoted trial goes on, so none counts twice."""
    return sum(row.trained for row in rows)


class Spared(NamedTuple):
    """Iterations that nobody had to train: what was asked for and not done.

    Attributes:
        diverged: from where trials diverged to the end of the rung that they were on the way to.
        duplicates: of results that were taken over from an earlier trial with the same setting.
    """

    diverged: int
    duplicates: int


def iterations_spared(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> Spared:
    """Add up what stopping diverged trials and not training duplicates spared."""
    rungs_of = {bracket.s: [rung.iterations for rung in bracket.rungs] for bracket in chosen_plan(plan, rows)}
    diverged = duplicates = 0
    for row in rows:
        if row.duplicate:
            duplicates += row.reached
        elif row.diverged_at is not None:
            asked = next(iterations for iterations in rungs_of[row.bracket] if iterations not in row.errors)
            diverged += asked - row.diverged_at
    return Spared(diverged, duplicates)
