"""What a worker process does: takes segments from a connection, trains them, and ends when the other side is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

from stantune.errors import StantuneError, StanWarning
from stantune.outcome import Outcome
from stantune.process.handlers import HereAlone
from stantune.process.start_method import copy_processes
from stantune.protocols import Segment, TakesTurns, Trainer
from stantune.search.stopping import ENDING
from stantune.search.workers.executors import Failure, InProcess, cause_of
from stantune.search.workers.turns import InTurns

TELL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


class Given(NamedTuple):
    """To a worker: a segment to train, and the number by which what is said of it is told apart."""

    number: int
    segment: Segment


class Stop(NamedTuple):
    """To a worker: end all segments in good order, those to come as well."""


class Ready(NamedTuple):
    """From a worker: it has its data and takes segments."""


class Moved(NamedTuple):
    """From a worker: a segment has done so many iterations."""

    done: int
    number: int = 0


class Over(NamedTuple):
    """From a worker: a segment is over, and how many seconds the worker was at others since it took it."""

    how: Outcome | Failure
    number: int = 0
    elsewhere: float = 0.0


class Broken(NamedTuple):
    """From a worker: no training can go on, as was found in these segments; None where it cannot begin any."""

    error: StantuneError
    numbers: tuple[int, ...] | None = None


class Said(NamedTuple):
    """From a worker: a line for the user."""

    line: str


class Warned(NamedTuple):
    """From a worker: a warning of ours, which all workers may have."""

    sentence: str
    category: type[StanWarning]


def work_to_order(connection: Connection, place: int, together: int) -> None:
    """Do what `work` does, by an order that comes over the connection first, pickled; the body of a process."""
    try:
        order = connection.recv_bytes()
    except (EOFError, OSError):  # nobody is there any more
        return
    work(connection, partial(pickle.loads, order), place, together)


def work(connection: Connection, order: Callable[[], Callable[[int], Trainer]], place: int, together: int = 1) -> None:
    """Train what comes over the connection; the body of a worker process.

    Args:
        connection: to the process that gives the segments. When that is gone, for whatever reason, this process ends.
        order: gives what makes the trainer of the worker with the number that it is given.
        place: this worker's number.
        together: how many segments it trains in turns.
    """
    # First of all: from here on there is no way to be left behind.
    inbox = _Inbox(connection)
    settle()
    _pass_on_warnings(connection)
    with contextlib.suppress(OSError):  # nobody is there any more
        try:
            trainer = order()(place)
        except StantuneError as error:
            connection.send(Broken(error))
            return
        except Exception as error:
            connection.send(Broken(StantuneError(f"a worker process cannot begin ({cause_of(error)})")))
            return
        connection.send(Ready())
        trainings: InProcess | InTurns = InProcess(trainer)
        if together > 1:
            # Who starts a worker for several has looked whether its objective takes turns.
            trainings = InTurns(cast(TakesTurns, trainer), together, lambda line: connection.send(Said(line)))
        _train_for_ever(connection, inbox, trainings)


def _train_for_ever(connection: Connection, inbox: _Inbox, trainings: InProcess | InTurns) -> None:
    """Take segments, train them, and say what they come to."""
    given: dict[int, Segment] = {}
    tellers: dict[int, Callable[[int], None]] = {}

    def number_of(segment: Segment) -> int:
        return next(number for number, each in given.items() if each is segment)

    def forget(number: int) -> int:
        del given[number], tellers[number]
        return number

    while True:
        for number, segment in inbox.come(wait=not given):
            given[number], tellers[number] = segment, _teller(connection, number)
            trainings.submit(segment)
        try:
            over = trainings.step(inbox.stopped, lambda segment, done: tellers[number_of(segment)](done))
        except StantuneError as error:
            left = trainings.held
            lost = [number for number, segment in given.items() if not any(segment is each for each in left)]
            connection.send(Broken(error, tuple(map(forget, lost))))
            continue
        for ended in over:
            connection.send(Over(ended.how, forget(number_of(ended.segment)), ended.elsewhere))


class _Inbox:
    """Listens in a thread of its own, so that a word to stop is heard in the middle of a training."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._segments: queue.SimpleQueue[Given] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def come(self, wait: bool) -> Iterator[Given]:
        """Yield the segments that have come, after waiting for one if it is asked to."""
        if wait:
            yield self._segments.get()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._segments.get_nowait()

    def stopped(self) -> bool:
        """Tell whether all segments are to end."""
        return self._stop.is_set()

    def _listen(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Stop):
                    self._stop.set()
                else:
                    self._segments.put(message)
        finally:
            # The other process has closed its end, or is gone: at once, in the middle of whatever this one does.
            os._exit(1)


def settle(trains: bool = True) -> None:
    """Make this process one that only its parent ends, and that takes nothing with it.

    Where memory runs out, one that `trains` is ended before others.
    """
    # Ctrl-C and a terminal's end go to all its processes, and a batch system's SIGTERM to all of a job; the parent
    # decides what comes of it. It has started this process with these signals blocked.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if trains:
        # What is ignored stays so in processes that a training starts, and it ends them by this signal.
        signal.signal(signal.SIGTERM, HereAlone(lambda number, frame: None))
        if hasattr(signal, "siginterrupt"):
            # No system call of a library ends for it.
            signal.siginterrupt(signal.SIGTERM, False)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    if sys.platform == "linux":
        # The inbox notices the parent's end as soon as Python code can run; this, in an extension that hangs, too.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = parent_process()
        if parent is not None and os.getppid() != parent.pid:
            os._exit(1)
        # Where memory runs out, the system is to end this process and not the one that keeps the trial table.
        with contextlib.suppress(OSError):
            if trains:
                Path("/proc/self/oom_score_adj").write_text("500")
    copy_processes()
    # What the user's network prints is no part of what the command prints (JSON, perhaps).
    if sys.stdout is not None:
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # there is no standard error either
        os.dup2(2, 1)
    sys.stdout = sys.stderr


def _pass_on_warnings(connection: Connection) -> None:
    """Have our warnings go to the process that gives the segments, which shows each of them once for all workers."""
    show, here = warnings.showwarning, (os.getpid(), threading.get_ident())

    def passed_on(message: Warning | str, category: type[Warning], *where: Any, **further: Any) -> None:
        # What loads the user's data may be a copy of this process, or a thread; the connection is this thread's alone.
        if issubclass(category, StanWarning) and here == (os.getpid(), threading.get_ident()):
            connection.send(Warned(str(message), category))
        else:
            show(message, category, *where, **further)

    warnings.showwarning = passed_on


def _teller(connection: Connection, number: int) -> Callable[[int], None]:
    """Return a function that tells the iterations done: the first at once, then a few times a second."""
    told = float("-inf")

    def watch(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_SECONDS:
            told = now
            connection.send(Moved(done, number))

    return watch
