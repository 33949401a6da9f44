"""A search by ask and tell: what may be trained now, and what became of it; the trial table says all the rest."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from copy import deepcopy
from dataclasses import replace

from stantune.errors import StantuneError, StoreError
from stantune.outcome import Outcome
from stantune.protocols import Objective, Segment, compared_value
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.last_run import Recorder
from stantune.search.finalists import Finalists
from stantune.search.outcomes import taken
from stantune.search.plan.coordinator import Coordinator
from stantune.search.plan.hyperband import stops_of
from stantune.search.plan.measured import chosen_plan
from stantune.search.plan.values import Final, FinalResult, Job, SegmentFailure, Training, TrialRow, training_of
from stantune.search.propose.proposals import Proposals
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table.store import Store
from stantune.search.telling.logbook import Logbook
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Watcher
from stantune.search.workers.executors import Failure
from stantune.texts import one_line

RETRIES = 2
# Where so many first trials have failed for good and none of them has had any result, it is hardly the settings.
HOPELESS = 5
# Where each result may let a job begin, ended trials are closed when so large a share of all results is new.
CLOSED_SHARE = 1 / 16


class Session:
    """Gives segments and takes what became of them. It may be killed at any moment: what was told stays.

    Attributes:
        final_failure: why one of them failed for good, None where none did.
    """

    def __init__(
        self,
        objective: Objective,
        settings: SearchSettings,
        store: Store,
        directory: SearchDirectory,
        places: int,
        watcher: Watcher,
        retries: int,
        recorder: Recorder,
        logbook: Logbook,
    ) -> None:
        self._finalists = Finalists(settings, objective.metric, store, directory, retries)
        self.final_failure: str | None = None
        self._metric, self._unit = objective.metric, objective.unit
        self._settings = settings
        self._rates = settings.rates_from()
        # Not the objective's: whose lines have changed places since draws as it did.
        self._proposals = Proposals(store.space, settings)
        self._plan = settings.plan()
        self._coordinator = Coordinator(self._plan)
        self._store = store
        self._directory = directory
        self._watcher = watcher
        self._retries = retries
        self._recorder = recorder
        self._logbook = logbook
        self._progress = Progress(self._plan, objective.metric, objective.unit)
        # What may be begun now, in this order, and what is running, with the moment from which its time counts.
        self._queue: deque[Training] = deque()
        self._running: dict[Training, float] = {}
        # Jobs of the queue and running ones, by rung: where none is left, the rung may be closed and others begin.
        self._open: Counter[tuple[int, int] | None] = Counter()
        # The table may allow more than what is in the queue.
        self._stale = True
        # Something was told, or a trial that equals an earlier one was made, since the last look; else another finds
        # nothing more, however often somebody asks.
        self._unseen = True
        # Trials that equal earlier ones were made since the last look.
        self._duplicates = False
        self._stopped = False
        # All trials are over.
        self._ending = False
        self._tidied: set[int] = set()
        # Jobs done since ended trials were last closed, and before that.
        self._done_since = self._done_before = 0
        # When each place was last given back; what is neither training nor evaluation in the time since then is
        # coordination.
        self._free = [time.perf_counter()] * places

    @property
    def running(self) -> int:
        """How many segments were given and not told of yet."""
        return len(self._running)

    @property
    def complete(self) -> bool:
        """Tell whether all that the plan asks for is done, as far as the last look at the table goes."""
        left = self._stale or self._queue or self._running
        return not left and not self._stopped and self.final_failure is None

    @property
    def state(self) -> SearchState:
        """What the search has come to."""
        rows = self._store.rows()
        plan, finals = chosen_plan(self._plan, rows), self._finalists.over(rows)
        failure, how = self.final_failure, self._settings.final
        return SearchState(plan, rows, finals, self._metric, self.complete, failure, how)

    def ask(self) -> Segment | None:
        """Return a segment to be trained; None where nothing may begin now.

        Segments that were given do not depend on one another: train them in any order, at any place. Where None comes
        and none is running, the search is over. Raises StoreError.
        """
        while self.may_begin():
            segment = self._begin(self._queue[0])
            # Not before: what could not be begun comes again.
            self._queue.popleft()
            if segment is not None:
                return segment
        return None

    def tell(self, segment: Segment, how: Outcome | Failure, elsewhere: float = 0.0, stopping: bool = False) -> None:
        """Take what became of a segment; one that was interrupted ends the asking.

        Args:
            segment: which.
            how: what it came to.
            elsewhere: see Ended.
            stopping: the search has been told to end; a failure is an interruption then, unless the checkpoint is of no
                use: what asks a search to end (a batch system, say) often ends a training's own processes, too.

        Raises:
            StoreError: it cannot be written; tell it again.
            StantuneError: none of the first trials could be trained.
        """
        job, free = training_of(segment), list(self._free)
        # Whatever comes of it, and also where it is to be told again.
        self._unseen = True
        began = self._running.pop(job)
        try:
            self._told(job, segment, how, began, elsewhere, stopping)
        except StoreError:
            self._running[job], self._free = began, free
            raise

    def _told(
        self, job: Training, segment: Segment, how: Outcome | Failure, began: float, elsewhere: float, stopping: bool
    ) -> None:
        now = time.perf_counter()
        if isinstance(how, Outcome):
            how = taken(how, segment, self._metric, self._unit)
        if isinstance(how, Failure):
            # Whatever raised it: it goes into the table, into JSON and to a terminal.
            how = how._replace(cause=one_line(how.cause))
            # The time that was lost counts as coordination of whatever comes next.
            heapq.heappush(self._free, min(began + elsewhere, now))
            if stopping and not how.damaged:
                self._stopped = True
                self._watcher.failure(job, how.cause, False)
            else:
                self._failed(job, how)
            return
        heapq.heappush(self._free, now)
        if how.interrupted:
            self._stopped = True
            return
        spent = how.cost.training_seconds + how.cost.evaluation_seconds + elsewhere
        cost = replace(how.cost, coordination_seconds=max(now - began - spent, 0.0))
        value = compared_value(self._metric, how.metrics)
        if value is None and how.diverged_at is None:
            # Nothing to compare it by: not a number, or none at all.
            how = replace(how, diverged_at=how.iterations, metrics={})
        if isinstance(job, Final):
            result = self._finalists.finish(job.rank, FinalResult.of(self._store.row(job.number).params, how, cost))
            self._logbook.final(result, self._store.rows())
        elif how.diverged_at is not None:
            self._store.record_divergence(job.number, job.stop, how.diverged_at, cost, how.losses)
        else:
            self._store.record(job.number, job.stop, how.metrics, cost, how.validation_share, how.losses)
        if isinstance(job, Job):
            self._logbook.trial(self._store.row(job.number))
        self._over(job)

    def give_up(self, cause: str) -> bool:
        """Take it that nothing can go on; return whether nothing but the final trainings was left, which is kept then.

        What the trials came to is not to be lost with the end.
        """
        if self._ending:
            self.final_failure = one_line(cause)
        return self._ending

    def moved(self, segment: Segment, done: int) -> None:
        """Take how far a segment is, for those who watch."""
        self._progress.iteration(training_of(segment), done)
        self.beat()

    def beat(self) -> None:
        """Have those who watch look again; call it often, also where nothing has moved."""
        self._watcher.iteration(self._progress)
        self._recorder.beat(self._progress)

    def may_begin(self) -> bool:
        """Tell whether there is something to begin; not where all is done, running, or waits for a result."""
        if self._stopped:
            return False
        if self._stale or (self._unseen and not self._queue):
            self._look()
        if self._unseen and self._queue and not self._is_ready() and (self._duplicates or not self._running):
            # The result that the setting waits for may only have to be taken over from an equal trial.
            self._look()
        return self._is_ready()

    def _is_ready(self) -> bool:
        """Tell whether there is a first job of the queue, and no setting of it that waits for a result."""
        if not self._queue:
            return False
        job, rows = self._queue[0], self._store.rows()
        # A setting may be waiting for a result; then so are those behind it, because trials are numbered in order.
        return isinstance(job, Final) or job.number < len(rows) or job.number < self._proposals.begins(rows)

    def _look(self) -> None:
        """Put into the queue all that may begin, as the table is now.

        The rungs of the bracket that began first come first, so that few checkpoints are kept; what comes after them is
        there for those who would have nothing to do. Takes time in proportion to the trials where there are ended ones
        to close: when a rung's jobs are used up, or asynchronously after a number of results that grows with them.
        """
        while found := self._coordinator.take_overs(self._store.rows()):
            for take_over in found:
                self._store.take_over(take_over)
                self._logbook.trial(self._store.row(take_over.number))
        rows = self._store.rows()
        ready = self._coordinator.ready_jobs(rows)
        self._ending = not ready
        finals = [] if ready else self._finalists.left(rows)
        left: list[Training] = [*ready, *finals]
        if not (self._coordinator.asynchronous and ready and self._done_since < CLOSED_SHARE * self._done_before):
            self._tidy(rows)
            several = self._settings.finals if ready else len(finals)
            self._progress.update(rows, several * self._settings.final_trained)
            self._done_since, self._done_before = 0, self._done_before + self._done_since
        self._open = Counter(map(_rung, ready))
        self._queue = deque(job for job in left if job not in self._running)
        self._stale = self._unseen = self._duplicates = False

    def _begin(self, job: Training) -> Segment | None:
        """Return the segment of a job; None where the trial that it makes equals an earlier one."""
        rows = self._store.rows()
        if isinstance(job, Job) and job.number == len(rows):
            setting, past = self._proposals.propose(job.number, rows), self._proposals.started_from(job.number)
            self._store.create(job.number, setting, job.bracket, past)
            rows = self._store.rows()
            self._logbook.trial(rows[job.number])
            if rows[job.number].equals:
                # It may take over what an equal trial has; whether it comes again, the next look tells.
                self._unseen = self._duplicates = True
                self._close_up(job)
                return None
        checkpoint = self._directory.checkpoint_of(job)
        self._directory.make_room(checkpoint)
        if isinstance(job, Final) and job.start:
            # Under another name: what a search keeps of its winner is there where its trials' checkpoints are not.
            self._directory.copy(self._directory.checkpoint(job.number), checkpoint)
        self._running[job] = heapq.heappop(self._free) if self._free else time.perf_counter()
        self._progress.begin(job, rows)
        self._watcher.job(job, self._progress)
        self._recorder.beat(self._progress)
        # Whoever trains may change it; the table's stays as it is.
        params = deepcopy(dict(rows[job.number].params))
        if isinstance(job, Final) and job.start:
            return Segment(
                job.number,
                params,
                job.start,
                job.stop,
                self._settings.trial_seed(job.number),
                checkpoint,
                finalist=job.rank,
                rates=self._rates,
                length=self._settings.max_resource,
            )
        if isinstance(job, Final):
            seed = self._settings.final_seed()
            return Segment(
                job.number,
                params,
                0,
                job.stop,
                seed,
                checkpoint,
                finalist=job.rank,
                length=job.stop,
                points=tuple(stop for stop in stops_of(self._plan) if stop < job.stop),
                best=self._directory.best(job.rank),
            )
        seed = self._settings.trial_seed(job.number)
        return Segment(
            job.number,
            params,
            job.start,
            job.stop,
            seed,
            checkpoint,
            bracket=job.bracket,
            rates=self._rates,
            length=self._settings.max_resource,
            validation_share=self._settings.validation_share(job.stop),
        )

    def _failed(self, job: Training, failure: Failure) -> None:
        checkpoint = self._directory.checkpoint_of(job)
        if failure.damaged:
            self._directory.set_aside(checkpoint)
        self._directory.sweep(checkpoint)
        if isinstance(job, Final):
            best = self._directory.best(job.rank)
            if failure.damaged:
                self._directory.set_aside(best)
            self._directory.sweep(best)
            for_good = self._finalists.failed(job, failure)
            if for_good:
                self.final_failure = failure.cause
        else:
            before = [earlier.damaged for earlier in self._store.row(job.number).failures if earlier.stop == job.stop]
            found = SegmentFailure(job.stop, failure.cause, bool(failure.damaged))
            # What befell a file says nothing of the training, which begins without it: once, no try is lost by that.
            free = found.damaged and not any(before)
            for_good = not failure.again or not (free or len(before) - any(before) < self._retries)
            self._store.record_failure(job.number, found, for_good)
        self._watcher.failure(job, failure.cause, for_good)
        if for_good:
            self._over(job)
            if isinstance(job, Job):
                self._check_hope(job.number, failure.cause)
        else:
            self._progress.retry(job)
            self._queue.appendleft(job)

    def _over(self, job: Training) -> None:
        """A job is done with."""
        self._done_since += 1
        self._progress.end(job)
        self._close_up(job)

    def _close_up(self, job: Training) -> None:
        """Count a job off its rung; with the last one the rung may be closed, and other jobs begin."""
        self._open[_rung(job)] -= 1
        self._stale |= self._open[_rung(job)] <= 0

    def _check_hope(self, number: int, cause: str) -> None:
        """Raise StantuneError where trial `number`, which has failed for good, was the last one of the first to do so.

        These are the first five, or ten, and so on: whoever goes on nevertheless is told again after five more. What
        later trials came to decides nothing, so that the number of workers does not.
        """
        first = self._store.rows()[: (number // HOPELESS + 1) * HOPELESS]
        if len(first) % HOPELESS == 0 and all(row.failed is not None and not row.errors for row in first):
            raise StantuneError(
                f"none of the first {len(first)} trials could be trained: all have failed for good, the last one with "
                f"{cause}; mend that and begin anew with `fresh`, or give the same command again if it is only these "
                "settings, and it goes on without them"
            )

    def _tidy(self, rows: list[TrialRow]) -> None:
        ended = self._coordinator.endings(rows)
        self._store.close(ended)
        for number in ended.keys() - self._tidied:
            if ended[number] != "finished":
                self._directory.discard(self._directory.checkpoint(number))
            self._logbook.ended(rows[number], ended[number])
        self._tidied.update(ended)


def _rung(job: Training) -> tuple[int, int] | None:
    return None if isinstance(job, Final) else (job.bracket, job.stop)
