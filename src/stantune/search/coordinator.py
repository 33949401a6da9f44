"""Decides what a synchronous Hyperband runs next, from its plan and the trial table and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from stantune.search.hyperband import Bracket, Result, promote

Ending: TypeAlias = Literal["finished", "dropped", "diverged"]


@dataclass(frozen=True)
class TrialRow:
    """One row of the trial table.

    `errors` and `costs` have the iterations of a rung as keys: the validation error there (percent), and
    what the caller noted of the segment that led there (`costs` of a diverged trial has its last segment
    too). `diverged_at` is the iteration at which training diverged.
    """

    number: int
    bracket: int
    params: Mapping[str, Any]
    errors: Mapping[int, float] = field(default_factory=dict)
    diverged_at: int | None = None
    costs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Job:
    """Train trial `number` of bracket `bracket` from iteration `start` to `stop`; running it twice is harmless."""

    number: int
    bracket: int
    start: int
    stop: int


@dataclass(frozen=True)
class RungState:
    """A rung that has begun: who is still to be trained, what is known, and who goes on once all is known."""

    bracket: int
    index: int
    start: int
    stop: int
    last: bool
    pending: tuple[int, ...]
    results: tuple[Result, ...]
    promoted: tuple[int, ...]

    @property
    def closed(self) -> bool:
        """Tell whether every trial of the rung has its result."""
        return not self.pending


@dataclass(frozen=True)
class Standing:
    """A trial's best rung result: `error` in percent after `iterations` iterations."""

    number: int
    params: Mapping[str, Any]
    error: float
    iterations: int


@dataclass(frozen=True)
class Status:
    """Where every trial of the table stands, and how many stand where.

    `trials` maps a number to "running" (in its first rung), "promoted" (in a later one), "dropped",
    "diverged" or "finished". Of the counts, `running` is all that have not ended and `promoted` all that
    were promoted at least once, however they ended.
    """

    trials: Mapping[int, str]
    running: int
    promoted: int
    dropped: int
    diverged: int
    finished: int


def rungs(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> Iterator[RungState]:
    """Go through every rung that has begun, bracket after bracket; a rung begins when the one before closes.

    A first rung has begun from the outset, with trials that the table does not hold yet.
    """
    table = {row.number: row for row in rows}
    first = 0
    for bracket in plan:
        numbers: Sequence[int] = range(first, first + bracket.rungs[0].trials)
        first = numbers[-1] + 1
        start = 0
        for index, rung in enumerate(bracket.rungs):
            results, pending = [], []
            for number in numbers:
                row = table.get(number)
                assert row is None or row.bracket == bracket.s, f"trial {number} is not of bracket {bracket.s}"
                if row is not None and rung.iterations in row.errors:
                    results.append(Result(number, row.errors[rung.iterations]))
                elif row is not None and row.diverged_at is not None:
                    results.append(Result(number, None))
                else:
                    pending.append(number)
            last = index == len(bracket.rungs) - 1
            promoted = () if pending or last else promote(results, bracket.rungs[index + 1].trials)
            yield RungState(bracket.s, index, start, rung.iterations, last, tuple(pending), tuple(results), promoted)
            if not promoted:
                break
            numbers, start = sorted(promoted), rung.iterations


def ready_jobs(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> list[Job]:
    """Return every job that can run now, in the order of bracket, rung and number; empty when all is done.

    The jobs do not depend on one another, so any number of them may run side by side. Takes time in
    proportion to the trials: call it again when its jobs are used up, not after each.
    """
    return [
        Job(number, state.bracket, state.start, state.stop) for state in rungs(plan, rows) for number in state.pending
    ]


def endings(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> dict[int, Ending]:
    """Return how each trial ended that has ended: diverged at any time, the others when their rung closes."""
    ended: dict[int, Ending] = {}
    for state in rungs(plan, rows):
        going_on = set(state.promoted)
        for result in state.results:
            if result.diverged:
                ended[result.number] = "diverged"
            elif state.closed and result.number not in going_on:
                ended[result.number] = "finished" if state.last else "dropped"
    return ended


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
        finished=counts["finished"],
    )


def ranking(rows: Sequence[TrialRow]) -> list[Standing]:
    """Rank the trials by their lowest error in any rung; ties: more iterations, then the smaller number.

    A trial that diverged later is left out, however good it was: trained on, its setting diverges again.
    """
    standings = []
    for row in rows:
        if row.errors and row.diverged_at is None:
            iterations = min(row.errors, key=lambda at: (row.errors[at], -at))
            standings.append(Standing(row.number, row.params, row.errors[iterations], iterations))
    return sorted(standings, key=lambda standing: (standing.error, -standing.iterations, standing.number))


def incumbent(rows: Sequence[TrialRow]) -> Standing | None:
    """Return the first of the `ranking`, or None where no trial has a result that counts."""
    return next(iter(ranking(rows)), None)


def iterations_trained(rows: Sequence[TrialRow]) -> int:
    """Add up the iterations that the table stands for; a promoted trial goes on, so none counts twice."""
    return sum(row.diverged_at if row.diverged_at is not None else max(row.errors, default=0) for row in rows)
