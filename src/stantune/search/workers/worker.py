"""What a worker process does: takes segments from a connection, trains them, and ends when the other side is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from stantune.errors import StantuneError
from stantune.outcome import Outcome
from stantune.protocols import Segment, Trainer
from stantune.search.stopping import ENDING
from stantune.search.workers.executors import Failure, attempt, cause_of

TELL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


class Stop(NamedTuple):
    """To a worker: end the present segment in good order."""


class Ready(NamedTuple):
    """From a worker: it has its data and takes segments."""


class Moved(NamedTuple):
    """From a worker: the present segment has done so many iterations."""

    done: int


class Over(NamedTuple):
    """From a worker: the present segment is over."""

    how: Outcome | Failure


class Broken(NamedTuple):
    """From a worker: no training can go on."""

    error: StantuneError


def work(connection: Connection, order: Callable[[], Callable[[int], Trainer]], place: int) -> None:
    """Train what comes over the connection; the body of a worker process.

    Args:
        connection: to the process that gives the segments. When that is gone, for whatever reason, this process ends.
        order: gives what makes the trainer of the worker with the number that it is given.
        place: this worker's number.
    """
    # First of all: from here on there is no way to be left behind.
    inbox = _Inbox(connection)
    settle()
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
        while True:
            segment = inbox.next()
            try:
                connection.send(Over(attempt(trainer, segment, inbox.stopped, _teller(connection))))
            except StantuneError as error:
                connection.send(Broken(error))


class _Inbox:
    """Listens in a thread of its own, so that a word to stop is heard in the middle of a training."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._segments: queue.SimpleQueue[Segment] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self) -> Segment:
        """Wait for the next segment."""
        return self._segments.get()

    def stopped(self) -> bool:
        """Tell whether the present segment is to end."""
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


def settle(favourite: bool = True) -> None:
    """Make this process one that only its parent ends, and that takes nothing with it.

    Where memory runs out, a `favourite` is ended before others.
    """
    # Ctrl-C and a terminal's end go to all its processes, and a batch system's SIGTERM to all of a job; the parent
    # decides what comes of it. It has started this process with these signals blocked.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
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
            if favourite:
                Path("/proc/self/oom_score_adj").write_text("500")
    # What the user's network prints is no part of what the command prints (JSON, perhaps).
    sys.stdout.flush()
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def _teller(connection: Connection) -> Callable[[int], None]:
    """Return a function that tells the iterations done: the first at once, then a few times a second."""
    told = float("-inf")

    def watch(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_SECONDS:
            told = now
            connection.send(Moved(done))

    return watch
