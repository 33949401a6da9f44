"""Worker processes: several trainings side by side, each in a process that may die without taking the search along."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from stantune.errors import StantuneError, StanWarning, UsageError
from stantune.process.groups import require_workers
from stantune.protocols import Segment, StopEarly, Trainer
from stantune.search.workers.executors import Ended, EndedBeside, Failure, Watch, not_begun
from stantune.search.workers.memory import Memory
from stantune.search.workers.places import Held, Place, Worker, shared
from stantune.search.workers.sending import sent
from stantune.search.workers.starting import send_order, starting
from stantune.search.workers.template import Template, TemplateCopy, can_copy
from stantune.search.workers.worker import Broken, Moved, Over, Ready, Said, Stop, Warned, work_to_order

POLL_SECONDS = 0.1
# Where longer than this passes between two looks at workers, this process was stopped, or kept by something else.
AWAY_SECONDS = 1.0
# For workers to write their checkpoints when a search ends on an error.
GRACE_SECONDS = 20.0
# For a worker with nothing to do to end.
LEAVE_SECONDS = 5.0
# So many workers in a row that end before they have begun: there is something wrong that another try does not mend.
MOST_STILLBORN = 10

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Limits:
    """What a training may use; one that uses more is ended, and so is its worker.

    Attributes:
        seconds: between two iterations, or for the evaluation; None for any time.
        bytes: of memory of its process, in which earlier trainings ran too, and of those that it has started; None for
            any amount.
    """

    seconds: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError where a limit cannot be kept on this system."""
        if self.bytes is not None and sys.platform != "linux":
            raise UsageError("`trial_memory` works on Linux alone, by /proc; leave it away here")


class Workers:
    """Trains in `count` processes, which are started when they are first needed, and again when they are lost.

    In each up to `together` segments take turns. Use it in a `with`: at its end the processes end; in good order, their
    checkpoints written, unless what leaves the block is a KeyboardInterrupt.
    """

    def __init__(
        self,
        order: Callable[[int], Trainer],
        count: int,
        limits: Limits | None = None,
        note: Callable[[str], None] = lambda line: None,
        together: int = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take what makes a trainer in each process, and how many.

        Args:
            order: it makes a trainer, one that takes turns where there are to be several; it is pickled.
            count: of processes.
            limits: what a training may use.
            note: takes a line for the log.
            together: segments that take turns in each process.
            say: takes a line for the user.

        Raises:
            UsageError: `order` cannot be pickled, or this process may start none.
        """
        require_workers()
        self.capacity = count * together
        # Pickled here and not by the process's start, so that a worker is already listening while it imports PyTorch.
        self._order = sent(order)
        self._template: Template | None = None
        # Of one worker there is nothing to share.
        self._copies = count > 1 and can_copy() and bool(getattr(order, "copies", False))
        self._modules, self._shares = getattr(order, "modules", ()), bool(getattr(order, "shares", False))
        self._limits = limits or Limits()
        self._memory = None if self._limits.bytes is None else Memory(self._limits.bytes)
        self._note, self._say = note, say
        self._together = together
        self._places = [Place() for _ in range(count)]
        self._waiting: deque[Held] = deque()
        # Trainings that lost a process with nothing beside them, and have done nothing else since.
        self._suspects: set[tuple[int, int | None]] = set()
        self._numbers = itertools.count()
        self._stillborn = 0
        self._looked = time.monotonic()
        self._warned: set[Warned] = set()
        self._stopping = False

    def __enter__(self) -> Workers:
        """Return the executor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        if kind is None or issubclass(kind, Exception):
            self._finish_in_good_order()
        else:
            for worker in self._living():
                worker.process.kill()
        for worker in self._living():
            # Which makes it leave.
            worker.connection.close()
        for worker in self._living():
            worker.process.join(LEAVE_SECONDS)
            worker.process.kill()
            worker.process.join()
        self._places = [Place() for _ in self._places]
        if self._template is not None:
            self._template.close()
            self._template = None

    def submit(self, segment: Segment) -> None:
        """See Executor."""
        if self._together > 1 and _training(segment) in self._suspects:
            # With others beside it, it would have them lose their process, too.
            min(self._places, key=lambda place: (len(place.apart), place.load)).apart.append(Held(segment))
        else:
            self._waiting.append(Held(segment))
        self._hand_out()

    def _hand_out(self) -> None:
        """Give workers what they have room for; start those that are not there."""
        for place in self._places:
            if not place.load:
                place.alone = bool(place.apart)
                if place.alone:
                    self._give(place, place.apart.popleft())
        while self._waiting:
            roomy = [place for place in self._places if place.has_room(self._together)]
            if not roomy:
                return
            # One that has nothing to do before one that is to be started, and both before one that has.
            self._give(min(roomy, key=lambda place: (place.load, place.worker is None)), self._waiting.popleft())

    def _give(self, place: Place, held: Held) -> None:
        if (worker := place.worker) is not None:
            number = next(self._numbers)
            if worker.give(number, held):
                return
            del worker.segments[number]
            if worker.segments:
                # What it had is found in its turn; this was not lost with it.
                self._waiting.appendleft(held)
                return
            # It was killed while it had nothing to do, which costs nothing.
            self._bury(place)
        self._start(place, [held])

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """See Executor."""
        over: list[Ended] = []
        while not over:
            if stop_early() and not self._stopping:
                over += self._stop()
            over += self._listen(watch)
        return over

    def _listen(self, watch: Watch) -> Iterator[Ended]:
        """Wait a moment for what busy workers say; yield the segments that are over."""
        self._hand_out()
        busy = [(place, place.worker) for place in self._places if place.worker is not None and place.load]
        spoken = wait([worker.connection for _, worker in busy], POLL_SECONDS)
        now = time.monotonic()
        if now - self._looked > AWAY_SECONDS:
            # What stops this process stops its workers (Ctrl-Z, a suspended job), and is no training's silence.
            for _, worker in busy:
                worker.heard = min(worker.heard + now - self._looked, now)
        self._looked = now
        for place, worker in busy:
            yield from self._attend(place, worker, worker.connection in spoken, watch)

    def _attend(self, place: Place, worker: Worker, spoken: bool, watch: Watch) -> Iterator[Ended]:
        """Hear what a busy worker says and see how it does; yield its segments that are over."""
        alive = worker.process.is_alive()
        try:
            # What a dead worker has said counts, too.
            while (spoken or not alive) and worker.segments and worker.connection.poll():
                message = worker.connection.recv()
                worker.heard = time.monotonic()
                if isinstance(message, Moved):
                    watch(worker.segments[message.number].segment, message.done)
                elif isinstance(message, Ready):
                    worker.ready, self._stillborn = True, 0
                    shared(worker.segments.values())
                elif isinstance(message, Said):
                    self._say(message.line)
                elif isinstance(message, Warned):
                    self._warn(message)
                elif isinstance(message, Over):
                    held = worker.segments.pop(message.number)
                    self._suspects.discard(_training(held.segment))
                    yield EndedBeside(held.segment, message.how, held.elsewhere + message.elsewhere)
                elif isinstance(message, Broken):
                    for number in tuple(worker.segments) if message.numbers is None else message.numbers:
                        del worker.segments[number]
                    raise message.error
        except (EOFError, OSError):
            alive = False
        if not worker.segments:
            return
        lost = list(worker.segments.values())
        if alive:
            excess = self._excess(worker)
            if excess is not None:
                self._bury(place)
                yield from self._lost(place, lost, excess)
            return
        end = self._bury(place, LEAVE_SECONDS)
        if worker.ready:
            yield from self._lost(place, lost, f"its worker process {end}")
        elif self._stopping:
            yield from (not_begun(held.segment) for held in lost)
        elif isinstance(worker.process, TemplateCopy) and worker.process.refused is not None:
            self._copy_no_more(worker.process.refused)
            self._start(place, lost)
        else:
            self._stillborn += 1
            if self._stillborn >= MOST_STILLBORN:
                raise StantuneError(
                    f"{MOST_STILLBORN} worker processes in a row ended as they started (the last one {end}); see that "
                    f"there is memory for {len(self._places)} of them, or give fewer `workers`"
                )
            self._start(place, lost)

    def _warn(self, warned: Warned) -> None:
        """Show a warning unless another worker had it already."""
        if warned not in self._warned:
            self._warned.add(warned)
            try:
                warnings.warn(warned.sentence, warned.category, stacklevel=2)
            except StanWarning as error:
                # Where the program turns warnings into errors: it would be out of a search whose processes go on.
                self._say(str(error))

    def _lost(self, place: Place, lost: list[Held], cause: str) -> Iterator[Ended]:
        """Yield a segment whose process was lost as failed; of several, try each again with nothing beside it."""
        if len(lost) == 1:
            [held] = lost
            self._suspects.add(_training(held.segment))
            yield EndedBeside(held.segment, Failure(cause), held.elsewhere)
        elif self._stopping:
            yield from (not_begun(held.segment) for held in lost)
        else:
            place.apart.extend(lost)
            trials = ", ".join(str(held.segment.trial) for held in lost)
            self._say(
                f"note: trials {trials} took turns in a process that is lost ({cause}); each is trained again from its "
                "checkpoint, with nothing beside it"
            )

    def _excess(self, worker: Worker) -> str | None:
        """Say which limit a worker has passed, None if none."""
        if not worker.ready:
            return None
        seconds = self._limits.seconds
        if seconds is not None and self._looked - worker.heard > seconds:
            return f"no iteration and no evaluation was done within {seconds:g} s, its time-out"
        pid = worker.process.pid
        if self._memory is not None and pid is not None and (what := self._memory.excess(pid)) is not None:
            return f"{what} used more than {self._memory.most / 1e6:.0f} MB of memory, its limit"
        return None

    def _stop(self) -> Iterator[Ended]:
        """Have all segments end; those that no worker has begun yet are over at once."""
        self._stopping = True
        for waiting in (self._waiting, *(place.apart for place in self._places)):
            while waiting:
                yield not_begun(waiting.popleft().segment)
        for place in self._places:
            if (worker := place.worker) is None or not worker.segments:
                continue
            if worker.ready or _has_spoken(worker):
                # Where it fails, the worker is dead, and that is noticed in its turn.
                with contextlib.suppress(OSError):
                    worker.connection.send(Stop())
            else:
                self._bury(place)
                yield from (not_begun(held.segment) for held in worker.segments.values())

    def _finish_in_good_order(self) -> None:
        """Have the workers keep what they have; one that cannot write it, or takes too long, is none to wait for."""
        end = time.monotonic() + GRACE_SECONDS
        if not self._stopping:
            deque(self._stop(), 0)
        while any(worker.segments for worker in self._living()) and time.monotonic() < end:
            with contextlib.suppress(StantuneError):
                deque(self._listen(lambda segment, done: None), 0)

    def _start(self, place: Place, several: Sequence[Held]) -> None:
        ours, theirs = _SPAWN.Pipe()
        number = self._places.index(place)
        process: SpawnProcess | TemplateCopy
        try:
            process = self._copy(theirs, number) or self._spawned(ours, theirs, number)
        except OSError as error:
            raise StantuneError(
                f"worker process {number} of {len(self._places)} cannot be started ({error.strerror or error}); give "
                "fewer `workers`"
            ) from error
        theirs.close()
        place.worker = Worker(process, ours)
        for held in several:
            # Where it is dead already, that is noticed in its turn.
            place.worker.give(next(self._numbers), held)

    def _spawned(self, ours: Connection, theirs: Connection, place: int) -> SpawnProcess:
        """Start a worker's process anew; raises OSError."""
        # Not a daemon: those may have no processes of their own, and a data loader of the user's may want some.
        arguments = (theirs, place, self._together)
        process = _SPAWN.Process(target=work_to_order, args=arguments, name=f"stantune worker {place}")
        with starting():
            process.start()
        send_order(ours, theirs, self._order)
        return process

    def _copy(self, connection: Connection, place: int) -> TemplateCopy | None:
        """Start a worker's process as a copy; None where there are none, or that was tried in vain. Raises OSError."""
        if not self._copies or self._stillborn:
            return None
        if self._template is not None and not self._template.usable:
            self._template.close()
            self._template = None
        if self._template is None:
            self._template = Template(self._order, self._modules, self._shares, self._together)
        try:
            return self._template.start(connection, place)
        except OSError:
            # It was killed just now.
            return None

    def _copy_no_more(self, why: str) -> None:
        """Have all workers from now on started anew, since there is something wrong with what they would be copies of.

        It is told once: all that were to be copies are refused, one after the other.
        """
        if self._copies:
            self._copies = False
            self._note(f"workers are no copies of one process, since {why}: each one loads PyTorch and data for itself")
        if self._template is not None and not any(
            isinstance(worker.process, TemplateCopy) and worker.process.pid is not None for worker in self._living()
        ):
            # With its memory; those that are still to come end with it, and are started anew.
            self._template.close()
            self._template = None

    def _bury(self, place: Place, patience: float = 0.0) -> str:
        """End a worker that has not ended within `patience` seconds; return how it ended."""
        worker = place.worker
        assert worker is not None
        place.worker = None
        worker.process.join(patience)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        code = worker.process.exitcode
        assert code is not None
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _living(self) -> list[Worker]:
        return [place.worker for place in self._places if place.worker is not None]


def _has_spoken(worker: Worker) -> bool:
    """Tell whether a worker that was not heard yet has said something: it trains, and has a checkpoint to keep."""
    try:
        return worker.connection.poll()
    except OSError:
        return False


def _training(segment: Segment) -> tuple[int, int | None]:
    """Return what tells a trial's segments, and each final training, from others."""
    return segment.trial, segment.finalist
