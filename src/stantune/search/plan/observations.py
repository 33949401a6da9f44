"""Which results a proposal looks at: fixed by a schedule on paper, so that no order of events can matter."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from stantune.search.plan.asha import Asha, AsyncBracket
from stantune.search.plan.coordinator import results_in
from stantune.search.plan.hyperband import Bracket, promote
from stantune.search.plan.measured import Choices, OpenBracket
from stantune.search.plan.values import Result, TrialRow


class Place(NamedTuple):
    """A trial's place in a rung: in the first rung in the order of the numbers, later among those promoted."""

    bracket: int
    rung: int
    slot: int


class Schedule(NamedTuple):
    """A search on paper.

    Attributes:
        ended: the places in the order in which they get their results.
        seen: of each trial number, how many of `ended` have their results when it begins; never falls.
    """

    ended: tuple[Place, ...]
    seen: tuple[int, ...]


class Observation(NamedTuple):
    """What a setting reached after so many iterations: its error, None where it diverged or failed."""

    number: int
    iterations: int
    error: float | None


def schedule(plan: Sequence[Bracket], workers: int) -> Schedule:
    """Return how a search by `workers` workers goes if every iteration takes the same time and no trial diverges.

    This is the rule by which proposals see results: trial n sees those that on this paper are there when it begins,
    whatever is there in truth. A worker that is free takes the first job in the order of bracket, rung and number.
    """
    starts, number = [], 0
    for bracket in plan:
        starts.append(number)
        number += bracket.rungs[0].trials
    waiting = [Place(b, 0, slot) for b, bracket in enumerate(plan) for slot in range(bracket.rungs[0].trials)]
    left = [[rung.trials for rung in bracket.rungs] for bracket in plan]
    ended: list[Place] = []
    seen = [0] * number
    running: list[tuple[int, Place]] = []
    now = 0
    while waiting or running:
        while waiting and len(running) < workers:
            place = heapq.heappop(waiting)
            rungs = plan[place.bracket].rungs
            before = rungs[place.rung - 1].iterations if place.rung else 0
            heapq.heappush(running, (now + rungs[place.rung].iterations - before, place))
            if not place.rung:
                seen[starts[place.bracket] + place.slot] = len(ended)
        now = running[0][0]
        while running and running[0][0] == now:
            _, place = heapq.heappop(running)
            ended.append(place)
            left[place.bracket][place.rung] -= 1
            following = place.rung + 1
            if not left[place.bracket][place.rung] and following < len(left[place.bracket]):
                for slot in range(left[place.bracket][following]):
                    heapq.heappush(waiting, Place(place.bracket, following, slot))
    return Schedule(tuple(ended), tuple(seen))


class Observations(Protocol):
    """Follows a growing trial table and keeps its results in the order in which they come on paper.

    What it returns depends on the table alone; it only remembers how far it has read.
    """

    def begins(self, rows: Sequence[TrialRow]) -> int:
        """Return how many trials may begin: the number of the first that must see a result that is not there yet."""
        ...

    def seen_by(self, number: int) -> int:
        """Return how many places of the paper trial `number` sees; it must be one that may begin."""
        ...

    def first(self, count: int, rows: Sequence[TrialRow]) -> list[Observation]:
        """Return the observations of the first `count` places; they must be there."""
        ...

    def overtaken(self, seen: Sequence[Observation], iterations: int) -> list[int]:
        """Return who of `seen` was not promoted to the rungs with so many iterations that `seen` has results of.

        They were dropped or had diverged before, or were not promoted yet; in the order of their numbers.
        """
        ...


def observations_of(plan: Sequence[Bracket], lag: int) -> Observations:
    """Return what follows the table of a search with this plan, on paper by `lag` workers."""
    return AsyncObservations(plan[0]) if isinstance(plan[0], AsyncBracket) else ScheduledObservations(plan, lag)


class AsyncObservations:
    """See Observations: a trial sees the results that its asynchronous bracket had on paper when it began."""

    def __init__(self, bracket: AsyncBracket) -> None:
        """Follow the table of a search with this one bracket."""
        self._asha = Asha(bracket)

    def begins(self, rows: Sequence[TrialRow]) -> int:
        """See Observations."""
        self._asha.follow(results_in(rows, self._asha.bracket))
        return len(self._asha.seen)

    def seen_by(self, number: int) -> int:
        """See Observations."""
        return self._asha.seen[number]

    def first(self, count: int, rows: Sequence[TrialRow]) -> list[Observation]:
        """See Observations."""
        self._asha.follow(results_in(rows, self._asha.bracket))
        assert count <= len(self._asha.ended), f"{count} results are asked for where {len(self._asha.ended)} are there"
        rungs = self._asha.bracket.rungs
        return [Observation(number, rungs[rung].iterations, error) for number, rung, error in self._asha.ended[:count]]

    def overtaken(self, seen: Sequence[Observation], iterations: int) -> list[int]:
        """See Observations."""
        rung = next(i for i, rung in enumerate(self._asha.bracket.rungs) if rung.iterations == iterations)
        if not rung or all(observation.iterations != iterations for observation in seen):
            return []
        promoted = self._asha.promoted[rung - 1]
        return sorted({of.number for of in seen if promoted.get(of.number, len(seen) + 1) > len(seen)})


class ScheduledObservations:
    """See Observations: a trial of synchronous brackets sees what `schedule` says."""

    def __init__(self, plan: Sequence[Bracket], workers: int) -> None:
        """Follow the table of a search with this plan; see `schedule` for `workers`."""
        self._choices = Choices(plan)
        self._workers = workers
        self._plan: list[Bracket] = []
        self._schedule = Schedule((), ())
        # Of each bracket and rung, who is in its places; a later rung's is added once it is known.
        self._numbers: dict[tuple[int, int], Sequence[int]] = {}
        # One for each place that is read; None where a place stays empty because too few trials were promoted.
        self._read: list[Observation | None] = []
        self._add([bracket for bracket in plan if not isinstance(bracket, OpenBracket)])

    def seen_by(self, number: int) -> int:
        """See Observations; places that stay empty count."""
        return self._schedule.seen[number]

    def begins(self, rows: Sequence[TrialRow]) -> int:
        """See Observations."""
        self._follow(rows)
        return bisect_right(self._schedule.seen, len(self._read))

    def first(self, count: int, rows: Sequence[TrialRow]) -> list[Observation]:
        """See Observations."""
        self._follow(rows)
        assert count <= len(self._read), f"{count} results are asked for where {len(self._read)} are there"
        return [observation for observation in self._read[:count] if observation is not None]

    def overtaken(self, seen: Sequence[Observation], iterations: int) -> list[int]:
        """See Observations."""
        numbers = {observation.number for observation in seen}
        there = {observation.number for observation in seen if observation.iterations == iterations}
        left: list[int] = []
        for b, bracket in enumerate(self._plan):
            first = self._numbers[b, 0]
            rung = next((i for i, rung in enumerate(bracket.rungs) if rung.iterations == iterations), 0)
            if rung and not there.isdisjoint(first):
                members = set(self._numbers[b, rung])
                left += [number for number in first if number in numbers and number not in members]
        return left

    def _add(self, brackets: Sequence[Bracket]) -> None:
        """Put brackets on paper, to begin when those before have ended; in the plan's beginning all begin at once."""
        added, before = schedule(brackets, self._workers), len(self._schedule.ended)
        first, place = len(self._schedule.seen), len(self._plan)
        self._schedule = Schedule(
            (*self._schedule.ended, *(of._replace(bracket=of.bracket + place) for of in added.ended)),
            (*self._schedule.seen, *(before + seen for seen in added.seen)),
        )
        for bracket in brackets:
            self._numbers[len(self._plan), 0] = range(first, first + bracket.rungs[0].trials)
            first += bracket.rungs[0].trials
            self._plan.append(bracket)

    def _follow(self, rows: Sequence[TrialRow]) -> None:
        for bracket in self._choices.plan(rows)[len(self._plan) :]:
            if isinstance(bracket, OpenBracket):
                break
            self._add([bracket])
        while len(self._read) < len(self._schedule.ended):
            place = self._schedule.ended[len(self._read)]
            numbers = self._in_rung(place.bracket, place.rung, rows)
            if place.slot >= len(numbers):
                self._read.append(None)
                continue
            number, iterations = numbers[place.slot], self._plan[place.bracket].rungs[place.rung].iterations
            result = rows[number].result(iterations) if number < len(rows) else None
            if result is None:
                return
            self._read.append(Observation(number, iterations, None if result.diverged else result.error))

    def _in_rung(self, bracket: int, rung: int, rows: Sequence[TrialRow]) -> Sequence[int]:
        """Return who is in a rung; on the schedule all results of the rung before come first, so they are there."""
        if (bracket, rung) not in self._numbers:
            rungs, results = self._plan[bracket].rungs, list[Result]()
            for number in self._in_rung(bracket, rung - 1, rows):
                result = rows[number].result(rungs[rung - 1].iterations)
                assert result is not None, f"trial {number} has no result in rung {rung - 1}"
                results.append(result)
            self._numbers[bracket, rung] = sorted(promote(results, rungs[rung].trials))
        return self._numbers[bracket, rung]
