"""Decides what a synchronous Hyperband runs next, from its plan and the trial table and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from stantune.search.hyperband import Bracket, Result, promote

Ending: TypeAlias = Literal["finished", "dropped", "diverged", "failed"]


class SegmentFailure(NamedTuple):
    """A training on the way to iteration `stop` that raised, hung or was killed, for this cause."""

    stop: int
    cause: str


@dataclass(frozen=True)
class TrialRow:
    """One row of the trial table.

    `errors` and `costs` have the iterations of a rung as keys: the validation error there (percent), and
    what the caller noted of the segment that led there (`costs` of a diverged trial has its last segment
    too). `diverged_at` is the iteration at which training diverged. `equals` are earlier trials with the
    same setting, of each bracket the first, which no other one goes beyond; `taken` tells of each result
    that was taken over from one of them, which one. `started_from` is the trial of an earlier search whose
    setting this one was given. `failures` are the segments that had to be tried again, in order, and
    `failed` tells why the trial failed for good.
    """

    number: int
    bracket: int
    params: Mapping[str, Any]
    errors: Mapping[int, float] = field(default_factory=dict)
    diverged_at: int | None = None
    costs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    equals: tuple[int, ...] = ()
    taken: Mapping[int, int] = field(default_factory=dict)
    started_from: int | None = None
    failures: tuple[SegmentFailure, ...] = ()
    failed: str | None = None

    def result(self, iterations: int) -> Result | None:
        """Return what the trial reached in the rung that ends there; None while that is not known."""
        if iterations in self.errors:
            return Result(self.number, self.errors[iterations])
        return None if self.diverged_at is None and self.failed is None else Result(self.number, None)

    @property
    def duplicate(self) -> bool:
        """Tell whether all its results were taken over, so that nothing was trained for this row.

        The first results of a trial are taken over or none: where no equal trial has the next one, this one is
        trained for itself, from its first iteration on.
        """
        last = max(self.taken, default=0)
        # A divergence that was taken over is in `taken`, but not in `errors`.
        return (
            bool(self.taken)
            and last >= max(self.errors, default=0)
            and (self.diverged_at is None or last not in self.errors)
        )

    @property
    def trained(self) -> int:
        """Iterations trained for this row."""
        return 0 if self.duplicate else self.reached

    @property
    def reached(self) -> int:
        """Iterations that its results stand for, whoever trained them."""
        return max(self.errors, default=0) if self.diverged_at is None else self.diverged_at


@dataclass(frozen=True)
class TakeOver:
    """Give trial `number` the result that the equal trial `source` has at iteration `stop`; no training needed."""

    number: int
    stop: int
    source: int
    error: float | None
    diverged_at: int | None


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
                result = None if row is None else row.result(rung.iterations)
                if result is None:
                    pending.append(number)
                else:
                    results.append(result)
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

    A trial that the table does not hold yet begins when its setting can be proposed, which is not decided here; if it
    then turns out to equal an earlier one (`TrialRow.equals`), its job is void, and a later call says whether it comes
    again. What `take_overs` has an answer to, and what waits for an earlier equal trial, is no job.
    """
    states = list(rungs(plan, rows))
    sources = _Sources(states, rows)
    return [
        Job(number, state.bracket, state.start, state.stop)
        for state in states
        for number in state.pending
        if sources.nowhere(number, state.stop)
    ]


def take_overs(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> list[TakeOver]:
    """Return every result that a trial takes over now from an earlier one with the same setting.

    The source is the trial with the smallest number that has a result there: where an earlier one is still on its way
    there, its result is waited for, so that the order in which results come in decides nothing. Call it again
    when these are recorded, because they may close rungs.
    """
    states = list(rungs(plan, rows))
    sources = _Sources(states, rows)
    found = []
    for state in states:
        for number in state.pending:
            source = sources.of(number, state.stop)
            if source is not None:
                error = source.errors.get(state.stop)
                at = source.diverged_at if error is None else None
                found.append(TakeOver(number, state.stop, source.number, error, at))
    return found


class _Sources:
    """Finds whose result a trial takes over."""

    def __init__(self, states: Sequence[RungState], rows: Sequence[TrialRow]) -> None:
        self._table: dict[int, TrialRow] = {}
        # Few spaces have equal settings; the others pay nothing.
        if any(row.equals for row in rows):
            self._table = {row.number: row for row in rows}
            self._ended = _endings(states)

    def nowhere(self, number: int, stop: int) -> bool:
        """Tell whether no earlier equal trial has the result or can still get it."""
        return self._first(number, stop) is None

    def of(self, number: int, stop: int) -> TrialRow | None:
        """Return the trial whose result is taken over; None where that is not decided yet, or nobody's is."""
        first = self._first(number, stop)
        return None if first is None or first.result(stop) is None else first

    def _first(self, number: int, stop: int) -> TrialRow | None:
        row = self._table.get(number)
        for earlier in () if row is None else row.equals:
            other = self._table[earlier]
            # That a training was killed says nothing of another with the same setting.
            known = stop in other.errors or other.diverged_at is not None
            if known or earlier not in self._ended:
                return other
        return None


def endings(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> dict[int, Ending]:
    """Return how each trial ended that has ended: diverged or failed at any time, the others when their rung closes."""
    ended = _endings(rungs(plan, rows))
    ended.update((row.number, "failed") for row in rows if row.failed is not None)
    return ended


def _endings(states: Iterable[RungState]) -> dict[int, Ending]:
    ended: dict[int, Ending] = {}
    for state in states:
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
        failed=counts["failed"],
        finished=counts["finished"],
    )


def ranking(rows: Sequence[TrialRow]) -> list[Standing]:
    """Rank the trials by their lowest error in any rung; ties: more iterations, then the smaller number.

    A trial that diverged or failed later is left out, however good it was: trained on, its setting does so again. So is
    a duplicate, whose setting and errors another row has.
    """
    standings = []
    for row in rows:
        if row.errors and row.diverged_at is None and row.failed is None and not row.duplicate:
            iterations = min(row.errors, key=lambda at: (row.errors[at], -at))
            standings.append(Standing(row.number, row.params, row.errors[iterations], iterations))
    return sorted(standings, key=lambda standing: (standing.error, -standing.iterations, standing.number))


def incumbent(rows: Sequence[TrialRow]) -> Standing | None:
    """Return the first of the `ranking`, or None where no trial has a result that counts."""
    return next(iter(ranking(rows)), None)


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
    rungs_of = {bracket.s: [rung.iterations for rung in bracket.rungs] for bracket in plan}
    diverged = duplicates = 0
    for row in rows:
        if row.duplicate:
            duplicates += row.reached
        elif row.diverged_at is not None:
            asked = next(iterations for iterations in rungs_of[row.bracket] if iterations not in row.errors)
            diverged += asked - row.diverged_at
    return Spared(diverged, duplicates)
