"""ASHA's rungs, followed on paper: who begins or is promoted next, in whole numbers (Li et al., MLSys 2020).

In Algorithm 2 of the paper a worker that is free promotes the best trial of the highest rung that may promote one, and
begins a new trial where there is none; nobody waits for a rung to be complete. What it decides depends on the results
that are there, and so on who was faster. Here it is decided on paper: there, as many workers as the search's lag says
take one unit of time for each iteration, and a decision sees the results that are there by then. What is trained in
truth is what is running on paper; where the next result on paper is missing in truth, it is waited for. So the results
alone say what comes next, in whatever order and by however many workers they were brought in.

Two things differ from Algorithm 2. A rung of which floor(n / eta) are promoted already promotes no further one when
better results come in (the delayed promotion of Hyper-Tune, Li et al., VLDB 2022). And a rung that nobody will come
into any more promotes as many as the plan says: where most settings diverge, nobody would be trained to the end
otherwise.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stantune.search.plan.hyperband import Bracket, plan, wide_plan
from stantune.search.plan.values import Result


@dataclass(frozen=True)
class AsyncBracket(Bracket):
    """A bracket that promotes one of `eta` trials of a rung as results come in; on paper by `lag` workers."""

    eta: int
    lag: int


def async_plan(
    max_iterations: int, min_iterations: int, eta: int, lag: int, trials: int | None = None
) -> tuple[AsyncBracket]:
    """Return the one bracket of an asynchronous search for R = `max_iterations` and r = `min_iterations`.

    Its rungs are those of `wide_plan`. n is `trials`; where None, (s_max + 1) eta^s_max, which come to about as many
    iterations as all brackets of Hyperband. Raises UsageError.
    """
    if trials is None:
        (widest,) = plan(max_iterations, min_iterations, eta, brackets=1)
        trials = (widest.s + 1) * eta**widest.s
    wide = wide_plan(max_iterations, min_iterations, eta, trials)
    return (AsyncBracket(wide.s, wide.rungs, eta, lag),)


class Step(NamedTuple):
    """A trial on its way to the end of a rung."""

    number: int
    rung: int


class Ended(NamedTuple):
    """A step whose result is there on paper: its error, the lower the better, None where it diverged or failed."""

    number: int
    rung: int
    error: float | None


class Asha:
    """Follows the results of a search as far as they are there, in the order in which they come on paper.

    What it knows depends on these results alone, not on when or how often it was told to follow.

    Attributes:
        bracket: the plan.
        ended: the steps that have ended, in their order.
        seen: of each trial that has begun, how many of `ended` were there by then; never falls.
        promoted: of each rung but the last, who was promoted out of it, and how many of `ended` were there by then.
    """

    def __init__(self, bracket: AsyncBracket) -> None:
        """Begin with nothing on paper."""
        self.bracket = bracket
        self.ended: list[Ended] = []
        self.seen: list[int] = []
        self.promoted: list[dict[int, int]] = [{} for _ in bracket.rungs[1:]]
        self._now = 0
        # By the time at which a step ends, then in the order in which they began.
        self._running: list[tuple[int, int, Step]] = []
        self._begun = 0
        # Of each rung but the last: who may be promoted, the best first, and how many results there are.
        self._paused: list[list[tuple[float, int]]] = [[] for _ in bracket.rungs[1:]]
        self._results = [0] * len(bracket.rungs)

    @property
    def running(self) -> Iterator[Step]:
        """The steps that run on paper, in the order in which their results are needed."""
        return (step for _, _, step in sorted(self._running))

    def members(self, rung: int) -> Sequence[int]:
        """Return who has come into a rung, in that order."""
        return range(len(self.seen)) if rung == 0 else list(self.promoted[rung - 1])

    def overtaken(self, rung: int) -> list[int]:
        """Return who of a rung but the last will not be promoted, whatever comes, since enough others are better."""
        left = self.bracket.rungs[rung + 1].trials - len(self.promoted[rung])
        return [number for _, number in sorted(self._paused[rung])[left:]]

    def follow(self, result: Callable[[int, int], Result | None]) -> None:
        """Go on as far as the results go.

        Args:
            result: returns that of a trial in the rung that ends at an iteration, None where it is not there yet.
        """
        while True:
            if not self._running or self._running[0][0] > self._now:
                # All that ended by now is told, so that those who are free may take what comes next.
                self._begin()
            if not self._running:
                return
            end, _, (number, rung) = self._running[0]
            found = result(number, self.bracket.rungs[rung].iterations)
            if found is None:
                return
            heapq.heappop(self._running)
            self._now = end
            error = None if found.diverged else found.error
            self.ended.append(Ended(number, rung, error))
            self._results[rung] += 1
            if error is not None and rung < len(self._paused):
                heapq.heappush(self._paused[rung], (error, number))

    def _begin(self) -> None:
        """Give each worker that is free on paper what comes next; calling it again changes nothing."""
        rungs = self.bracket.rungs
        while len(self._running) < self.bracket.lag and (step := self._next()) is not None:
            start = rungs[step.rung - 1].iterations if step.rung else 0
            end = self._now + rungs[step.rung].iterations - start
            heapq.heappush(self._running, (end, self._begun, step))
            self._begun += 1

    def _next(self) -> Step | None:
        for rung in reversed(range(len(self._paused))):
            if self._paused[rung] and len(self.promoted[rung]) < self._may_promote(rung):
                # The best of those left is among the best floor(n / eta), since fewer than these were promoted.
                _, number = heapq.heappop(self._paused[rung])
                self.promoted[rung][number] = len(self.ended)
                return Step(number, rung + 1)
        if len(self.seen) == self.bracket.rungs[0].trials:
            return None
        self.seen.append(len(self.ended))
        return Step(len(self.seen) - 1, 0)

    def _may_promote(self, rung: int) -> int:
        """Return how many a rung may promote in all, as far as its results go."""
        if self._is_complete(rung):
            return self.bracket.rungs[rung + 1].trials
        return self._results[rung] // self.bracket.eta

    def _is_complete(self, rung: int) -> bool:
        """Tell whether all who come into a rung have their results."""
        if rung == 0:
            return self._results[0] == self.bracket.rungs[0].trials
        promoted, planned = len(self.promoted[rung - 1]), self.bracket.rungs[rung].trials
        if self._results[rung] < promoted:
            return False
        return promoted == planned or (not self._paused[rung - 1] and self._is_complete(rung - 1))
