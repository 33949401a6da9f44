"""Decides what a search runs next, from its plan and the trial table and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from stantune.search.plan.asha import Asha, AsyncBracket
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.measured import Choices, OpenBracket
from stantune.search.plan.rungs import RungState, rungs_of
from stantune.search.plan.values import Ending, Job, Result, TakeOver, TrialRow


class Coordinator:
    """Says what a search with this plan runs next.

    What it says depends on the table that it is given, and on nothing else. The tables must be those of one search as
    it grows: it remembers how far it has read them for an asynchronous bracket, and which brackets were chosen, so that
    looking again takes time in proportion to what is new.
    """

    def __init__(self, plan: Sequence[Bracket]) -> None:
        """Begin with a plan of synchronous brackets, which may be open, or of one that is asynchronous."""
        self._choices = Choices(plan)
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
        An open bracket begins when it is chosen: when all trials before it have ended.
        """
        return _synchronous(self._choices.plan(rows), rows) if self._asha is None else _asynchronous(self._asha, rows)

    def ready_jobs(self, rows: Sequence[TrialRow]) -> list[Job]:
        """Return every job that can run now; empty when all is done.

        They come in the order of bracket, rung and number; asynchronously, in that in which their results are needed.
        They do not depend on one another, so any number of them may run side by side. Where all is synchronous this
        takes time in proportion to the trials: call it again when its jobs are used up, not after each.

        A trial that the table does not hold yet begins when its setting can be proposed, which is not decided here; if
        it then turns out to equal an earlier one (`TrialRow.equals`), its job is void, and a later call says whether it
        comes again. What `take_overs` has an answer to, and what waits for an earlier equal trial, is no job.
        """
        sources = _Sources(self, rows)
        return [job for job in self._open_jobs(rows) if sources.nowhere(job.number, job.stop)]

    def take_overs(self, rows: Sequence[TrialRow]) -> list[TakeOver]:
        """Return every result that a trial takes over now from an earlier one with the same setting.

        The source is the trial with the smallest number that has a result there: where an earlier one is still on its
        way there, its result is waited for, so that the order in which results come in decides nothing. Call it again
        when these are recorded, because they may close rungs.
        """
        if not self._has_equals(rows):
            return []
        sources, found = _Sources(self, rows), []
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
            states = _synchronous(self._choices.plan(rows), rows)
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


def _synchronous(brackets: Sequence[Bracket], rows: Sequence[TrialRow]) -> Iterator[RungState]:
    table, first = {row.number: row for row in rows}, 0
    for place, bracket in enumerate(brackets):
        if isinstance(bracket, OpenBracket):
            break
        yield from rungs_of(bracket, place, first, table)
        first += bracket.rungs[0].trials


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
        yield RungState(0, bracket.s, index, start, rung.iterations, last, pending, results, promoted, stopped)
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
    """Finds whose result a trial takes over, in a whole table, which has its rows by their numbers."""

    def __init__(self, coordinator: Coordinator, rows: Sequence[TrialRow]) -> None:
        self._coordinator = coordinator
        self._rows = rows

    def nowhere(self, number: int, stop: int) -> bool:
        """Tell whether no earlier equal trial has the result or can still get it."""
        return self._first(number, stop) is None

    def of(self, number: int, stop: int) -> TrialRow | None:
        """Return the trial whose result is taken over; None where that is not decided yet, or nobody's is."""
        first = self._first(number, stop)
        return None if first is None or first.result(stop) is None else first

    def _first(self, number: int, stop: int) -> TrialRow | None:
        for earlier in self._rows[number].equals if number < len(self._rows) else ():
            other = self._rows[earlier]
            # That a training was killed says nothing of another with the same setting.
            known = stop in other.errors or other.diverged_at is not None
            if known or earlier not in self._ended:
                return other
        return None

    @cached_property
    def _ended(self) -> dict[int, Ending]:
        """Who has ended: it takes all trials, and is asked of only where an equal one has no result there yet."""
        return _endings(self._coordinator.rungs(self._rows))


def endings(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> dict[int, Ending]:
    """Return how each trial ended that has ended, from a table as it is; see Coordinator."""
    return Coordinator(plan).endings(rows)


def _endings(states: Iterable[RungState]) -> dict[int, Ending]:
    ended: dict[int, Ending] = {}
    for state in states:
        ended.update(dict.fromkeys(state.stopped, "finished" if state.last else "dropped"))
        ended.update((result.number, "diverged") for result in state.results if result.diverged)
    return ended
