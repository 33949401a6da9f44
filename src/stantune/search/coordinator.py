"""Decides what a search runs next, from its plan and the trial table and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from stantune.search.asha import Asha, AsyncBracket
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
    """A rung that has begun.

    Attributes:
        bracket: its bracket's s.
        index: its place in the bracket.
        start: the iteration at which its trainings begin.
        stop: the iteration at which they end.
        last: whether its trials have nowhere to be promoted to.
        pending: who may be trained, or is being trained.
        results: what is known.
        promoted: who goes on.
        stopped: who will not go on, whatever comes; who diverged may be missing.
    """

    bracket: int
    index: int
    start: int
    stop: int
    last: bool
    pending: tuple[int, ...]
    results: tuple[Result, ...]
    promoted: tuple[int, ...]
    stopped: tuple[int, ...]


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


class Coordinator:
    """Says what a search with this plan runs next.

    What it says depends on the table that it is given, and on nothing else. The tables must be those of one search as
    it grows: it remembers how far it has read them for an asynchronous bracket, so that looking again takes time in
    proportion to what is new.
    """

    def __init__(self, plan: Sequence[Bracket]) -> None:
        """Begin with a plan of synchronous brackets, or of one that is asynchronous."""
        self._plan = plan
        self._asha = Asha(plan[0]) if isinstance(plan[0], AsyncBracket) else None
        # So many rows are without equals; what a row's are is known from the first.
        self._unequalled = 0

    @property
    def asynchronous(self) -> bool:
        """Tell whether a single result may let a job begin; otherwise it takes the last one of a rung."""
        return self._asha is not None

    def rungs(self, rows: Sequence[TrialRow]) -> Iterator[RungState]:
        """Go through every rung that has begun, bracket after bracket.

        A first rung has begun from the outset, with trials that the table does not hold yet. Where brackets are
        synchronous, another one begins when the one before has all its results; else with the first that is promoted.
        """
        return _synchronous(self._plan, rows) if self._asha is None else _asynchronous(self._asha, rows)

    def ready_jobs(self, rows: Sequence[TrialRow]) -> list[Job]:
        """Return every job that can run now; empty when all is done.

        They come in the order of bracket, rung and number; asynchronously, in that in which their results are needed.
        They do not depend on one another, so any number of them may run side by side. Where all is synchronous this
        takes time in proportion to the trials: call it again when its jobs are used up, not after each.

        A trial that the table does not hold yet begins when its setting can be proposed, which is not decided here; if
        it then turns out to equal an earlier one (`TrialRow.equals`), its job is void, and a later call says whether it
        comes again. What `take_overs` has an answer to, and what waits for an earlier equal trial, is no job.
        """
        open_jobs = self._open_jobs(rows)
        if not self._has_equals(rows):
            return open_jobs
        sources = _Sources(self.rungs(rows), rows)
        return [job for job in open_jobs if sources.nowhere(job.number, job.stop)]

    def take_overs(self, rows: Sequence[TrialRow]) -> list[TakeOver]:
        """Return every result that a trial takes over now from an earlier one with the same setting.

        The source is the trial with the smallest number that has a result there: where an earlier one is still on its
        way there, its result is waited for, so that the order in which results come in decides nothing. Call it again
        when these are recorded, because they may close rungs.
        """
        if not self._has_equals(rows):
            return []
        sources, found = _Sources(self.rungs(rows), rows), []
        for job in self._open_jobs(rows):
            source = sources.of(job.number, job.stop)
            if source is not None:
                error = source.errors.get(job.stop)
                at = source.diverged_at if error is None else None
                found.append(TakeOver(job.number, job.stop, source.number, error, at))
        return found

    def endings(self, rows: Sequence[TrialRow]) -> dict[int, Ending]:
        """Return how each trial ended that has ended; what is returned once, stays.

        Diverged or failed at any time; the others when their rung closes, or asynchronously as soon as they cannot be
        promoted any more.
        """
        ended = _endings(self.rungs(rows))
        ended.update((row.number, "failed") for row in rows if row.failed is not None)
        return ended

    def _has_equals(self, rows: Sequence[TrialRow]) -> bool:
        """Tell whether any setting comes twice; few spaces have equal settings, and the others pay nothing."""
        while self._unequalled < len(rows) and not rows[self._unequalled].equals:
            self._unequalled += 1
        return self._unequalled < len(rows)

    def _open_jobs(self, rows: Sequence[TrialRow]) -> list[Job]:
        """Return what has no result yet of all that has begun."""
        if self._asha is None:
            states = _synchronous(self._plan, rows)
            return [Job(number, of.bracket, of.start, of.stop) for of in states for number in of.pending]
        result = results_in(rows, self._asha.bracket)
        self._asha.follow(result)
        stops = [0, *(rung.iterations for rung in self._asha.bracket.rungs)]
        return [
            Job(number, self._asha.bracket.s, stops[rung], stops[rung + 1])
            for number, rung in self._asha.running
            if result(number, stops[rung + 1]) is None
        ]


def rungs(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> Iterator[RungState]:
    """Go through every rung that has begun; see Coordinator."""
    return Coordinator(plan).rungs(rows)


def ready_jobs(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> list[Job]:
    """Return every job that can run now, from a table as it is; see Coordinator."""
    return Coordinator(plan).ready_jobs(rows)


def take_overs(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> list[TakeOver]:
    """Return every result that can be taken over now, from a table as it is; see Coordinator."""
    return Coordinator(plan).take_overs(rows)


def _synchronous(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> Iterator[RungState]:
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
            going_on = set(promoted)
            stopped = () if pending else tuple(number for number, _ in results if number not in going_on)
            yield RungState(
                bracket.s, index, start, rung.iterations, last, tuple(pending), tuple(results), promoted, stopped
            )
            if not promoted:
                break
            numbers, start = sorted(promoted), rung.iterations


def _asynchronous(asha: Asha, rows: Sequence[TrialRow]) -> Iterator[RungState]:
    bracket, start = asha.bracket, 0
    result = results_in(rows, bracket)
    asha.follow(result)
    for index, rung in enumerate(bracket.rungs):
        found = {number: result(number, rung.iterations) for number in asha.members(index)}
        results = tuple(known for known in found.values() if known is not None)
        pending = tuple(number for number, known in found.items() if known is None)
        last = index == bracket.s
        promoted = () if last else tuple(asha.promoted[index])
        stopped = tuple(number for number, _ in results) if last else tuple(asha.overtaken(index))
        yield RungState(bracket.s, index, start, rung.iterations, last, pending, results, promoted, stopped)
        start = rung.iterations


def results_in(rows: Sequence[TrialRow], bracket: Bracket) -> Callable[[int, int], Result | None]:
    """Return the function that looks results up in a whole table, which has its rows by their numbers."""

    def result(number: int, stop: int) -> Result | None:
        if number >= len(rows):
            return None
        row = rows[number]
        assert (row.number, row.bracket) == (number, bracket.s), f"trial {number} is not of bracket {bracket.s}"
        return row.result(stop)

    return result


class _Sources:
    """Finds whose result a trial takes over."""

    def __init__(self, states: Iterable[RungState], rows: Sequence[TrialRow]) -> None:
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
    """Return how each trial ended that has ended, from a table as it is; see Coordinator."""
    return Coordinator(plan).endings(rows)


def _endings(states: Iterable[RungState]) -> dict[int, Ending]:
    ended: dict[int, Ending] = {}
    for state in states:
        ended.update(dict.fromkeys(state.stopped, "finished" if state.last else "dropped"))
        ended.update((result.number, "diverged") for result in state.results if result.diverged)
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
