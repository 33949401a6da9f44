"""How far a search is: numbers for those who watch it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from stantune.search.coordinator import Job, Status, TrialRow, incumbent, rungs, status
from stantune.search.hyperband import Bracket


class Progress:
    """Counts iterations as they are trained; looks at the table only when it is asked.

    Attributes:
        at: the iteration at which the present training is.
        final_iterations: iterations of the final training.
    """

    def __init__(self, plan: Sequence[Bracket], final_iterations: int) -> None:
        self.final_iterations = final_iterations
        self.at = 0
        self._plan = plan
        self._rows: Sequence[TrialRow] = ()
        self._left = 0
        self._trained = 0
        self._job = (0, 0)
        self._began = time.monotonic()

    def update(self, rows: Sequence[TrialRow]) -> None:
        """Take the table as it is now; takes time in proportion to the trials, so call it once per rung."""
        self._rows = rows
        self._left = self.final_iterations + iterations_left(self._plan, rows)
        # The job that was begun last is in the table now, so nothing is left of it.
        self._job, self.at = (0, 0), 0

    def begin(self, job: Job | None, rows: Sequence[TrialRow]) -> None:
        """A job begins; None stands for the final training."""
        self._rows = rows
        self._left -= self._job[1] - self._job[0]
        self._job = (0, self.final_iterations) if job is None else (job.start, job.stop)
        self.at = self._job[0]

    def iteration(self, done: int) -> None:
        """The present training has done so many iterations."""
        self._trained += 1
        self.at = done

    @property
    def status(self) -> Status:
        """Where the trials stand; takes time in proportion to them."""
        return status(self._plan, self._rows)

    @property
    def trials(self) -> int:
        """Trials begun."""
        return len(self._rows)

    @property
    def planned(self) -> int:
        """Trials of the whole plan."""
        return sum(bracket.rungs[0].trials for bracket in self._plan)

    @property
    def best(self) -> float | None:
        """The lowest validation error so far, in percent."""
        best = incumbent(self._rows)
        return None if best is None else best.error

    @property
    def iterations_per_second(self) -> float:
        """Iterations trained by this process over its whole time so far, evaluation and all."""
        return self._trained / max(time.monotonic() - self._began, 1e-9)

    @property
    def iterations_left(self) -> int:
        """Iterations left, the final training's among them, if no trial diverges any more."""
        return max(self._left - (self.at - self._job[0]), 0)

    @property
    def seconds_left(self) -> float | None:
        """Time left at the pace so far, if no trial diverges any more; None before the first iterations."""
        if self._trained < 10:
            return None
        return self.iterations_left / self.iterations_per_second


def iterations_left(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> int:
    """Return the iterations still to be trained if no further trial diverges."""
    begun = {(state.bracket, state.index): state for state in rungs(plan, rows)}
    left = 0
    for bracket in plan:
        before, reach = 0, bracket.rungs[0].trials
        for index, rung in enumerate(bracket.rungs):
            state = begun.get((bracket.s, index))
            reach = min(reach, rung.trials)
            waiting = reach if state is None else len(state.pending)
            left += waiting * (rung.iterations - before)
            before = rung.iterations
            if state is not None:
                reach = waiting + sum(not result.diverged for result in state.results)
    return left
