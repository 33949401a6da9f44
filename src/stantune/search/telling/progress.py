"""How far a search is: numbers for those who watch it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property

from stantune.protocols import Metric
from stantune.search.plan.coordinator import rungs
from stantune.search.plan.hyperband import Bracket, place_of, stops_of
from stantune.search.plan.measured import chosen_plan
from stantune.search.plan.standings import Standing, Status, incumbent, status
from stantune.search.plan.values import Job, Training, TrialRow


class _Table:
    """A trial table as it was once: who draws again and again what it comes to goes over it once."""

    def __init__(self, plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> None:
        self.plan = plan
        self.rows = rows

    @cached_property
    def status(self) -> Status:
        """Where the trials stand."""
        return status(self.plan, self.rows)

    @cached_property
    def best(self) -> Standing | None:
        """The best trial so far, at the most iterations that it has reached."""
        return incumbent(self.rows, stops_of(self.plan)[-1])


class Progress:
    """Counts iterations as they are trained; looks at the table only when it is asked.

    Attributes:
        metric: what trials are compared by.
        unit: what iterations are called.
        begun: trainings that this process has begun.
        retried: trainings that failed and were begun again, by this process.
    """

    def __init__(self, plan: Sequence[Bracket], metric: Metric, unit: str = "iteration") -> None:
        self.metric = metric
        self.unit = unit
        self.begun = 0
        self.retried = 0
        self._table = _Table(plan, ())
        self._left = 0
        self._trained = 0
        # The iteration at which each running job is; None until it has done one, since it may go on from a checkpoint.
        self._running: dict[Training, int | None] = {}
        # Iterations of the jobs that ended since the table was last looked at: nothing is left of those.
        self._ended = 0
        # When the first iteration was told: until then workers were loading their data.
        self._began: float | None = None

    def update(self, rows: Sequence[TrialRow], finals: int) -> None:
        """Take the table as it is now, and the iterations that are left of the final trainings.

        Takes time in proportion to the trials, so call it once per rung.
        """
        plan = chosen_plan(self._table.plan, rows)
        self._table = _Table(plan, rows)
        self._left = iterations_left(plan, rows) + finals
        self._ended = 0

    def begin(self, job: Training, rows: Sequence[TrialRow]) -> None:
        """A job begins; `rows` is the table as it is now."""
        self._table = _Table(self._table.plan, rows)
        self.begun += 1
        self._running[job] = None

    def iteration(self, job: Training, done: int) -> None:
        """A running job has done so many iterations."""
        if self._began is None:
            self._began = time.monotonic()
        before = self._running[job]
        self._trained += 1 if before is None else max(done - before, 0)
        self._running[job] = done

    def end(self, job: Training) -> None:
        """A running job is over, and has its result in the table."""
        del self._running[job]
        self._ended += job.stop - job.start

    def retry(self, job: Training) -> None:
        """A running job has failed, and is to be begun again."""
        del self._running[job]
        self.retried += 1

    def bracket_of(self, job: Job) -> str:
        """Return a name for the bracket of a trial: its s, and of several with that s which one, from the second on."""
        plan = self._table.plan
        before = sum(bracket.s == job.bracket for bracket in plan[: place_of(plan, job.number)])
        return f"{job.bracket} ({before + 1})" if before else str(job.bracket)

    @property
    def running(self) -> Mapping[Training, int]:
        """The running jobs in the order in which they began, and the iteration at which each is."""
        return {job: job.start if at is None else at for job, at in self._running.items()}

    @property
    def trials_running(self) -> int:
        """How many of the running jobs are trials', and not final trainings."""
        return sum(isinstance(job, Job) for job in self._running)

    @property
    def status(self) -> Status:
        """Where the trials stand; takes time in proportion to them, once for each job that begins."""
        return self._table.status

    @property
    def trials(self) -> int:
        """Trials begun."""
        return len(self._table.rows)

    @property
    def planned(self) -> int:
        """Trials of the whole plan."""
        return sum(bracket.rungs[0].trials for bracket in self._table.plan)

    @property
    def best(self) -> float | None:
        """The value of the best trial so far, at the most iterations that it has reached."""
        best = self._table.best
        return None if best is None else self.metric.loss(best.error)

    @property
    def best_share(self) -> float:
        """By how much of the validation set that was measured."""
        best = self._table.best
        return 1.0 if best is None else best.share

    @property
    def iterations_per_second(self) -> float:
        """Iterations trained by this process and its workers over the time since the first, evaluation and all."""
        return 0.0 if self._began is None else self._trained / max(time.monotonic() - self._began, 1e-9)

    @property
    def iterations_left(self) -> int:
        """Iterations left, those of the final trainings among them, if no trial diverges any more."""
        done = sum(at - job.start for job, at in self.running.items())
        return max(self._left - self._ended - done, 0)

    @property
    def seconds_left(self) -> float | None:
        """Time left at the pace so far, if no trial diverges any more; None before the first iterations."""
        if self._trained < 10:
            return None
        return self.iterations_left / self.iterations_per_second


def iterations_left(plan: Sequence[Bracket], rows: Sequence[TrialRow]) -> int:
    """Return the iterations still to be trained if no further trial diverges; an open bracket counts as its widest."""
    begun = {(state.place, state.index): state for state in rungs(plan, rows)}
    left = 0
    for place, bracket in enumerate(chosen_plan(plan, rows)):
        before, reach = 0, bracket.rungs[0].trials
        for index, rung in enumerate(bracket.rungs):
            state = begun.get((place, index))
            reach = min(reach, rung.trials)
            waiting = reach - (0 if state is None else len(state.results))
            left += waiting * (rung.iterations - before)
            before = rung.iterations
            if state is not None:
                reach = waiting + sum(not result.diverged for result in state.results)
    return left
