"""Ends a search in good order: on Ctrl-C, SIGTERM, a lost terminal, or when its budget of time is spent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from stantune.process.handlers import HereAlone

# What asks a program to end; the last one, which not every system has, tells that the terminal or the ssh line is lost.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Who sends one of these twice is obeyed at once; shell and system both send a SIGHUP.
_URGING = signal.SIGINT, signal.SIGTERM

# How often is looked whether another process has asked for it.
REQUEST_SECONDS = 1.0


class Stop:
    """Whether the command is to end: its budget is spent, or somebody asked for it.

    Attributes:
        interrupted: somebody asked for it.
        urged: somebody asked twice, and is to be obeyed at once.
        signalled: a signal asked for it.
    """

    def __init__(self, seconds: float | None = None, around: Callable[[], bool] = lambda: False) -> None:
        """Take a budget, and what tells whether that which goes on around this is to end."""
        self.interrupted = self.urged = self.signalled = False
        self._told = False
        self._around = around
        self._requests: list[Callable[[], bool]] = []
        self._next = 0.0
        self._deadline = None if seconds is None else time.monotonic() + seconds

    @contextmanager
    def heeding(self, request: Callable[[], bool]) -> Iterator[None]:
        """Take it for an interruption, as long as this lasts, where `request` says so; it is asked every second.

        Several are heeded at a time: a study's, and that of its search.
        """
        self._requests.append(request)
        try:
            yield
        finally:
            self._requests.remove(request)

    def asked(self) -> bool:
        """Tell whether to end now.

        Raises:
            KeyboardInterrupt: somebody asked twice, and what that raised may have been swallowed: libraries that train
                return at Ctrl-C as if they had trained to the end.
        """
        if self.urged:
            raise KeyboardInterrupt
        # Nothing is written that was read before: a signal may be heard in the middle of a question.
        if self._around():
            self.interrupted = True
        if self._requests and time.monotonic() >= self._next:
            self._next = time.monotonic() + REQUEST_SECONDS
            if any(request() for request in self._requests):
                self.interrupted = True
        return self.interrupted or (self._deadline is not None and time.monotonic() >= self._deadline)

    def hear(self, number: int) -> None:
        """Take a signal for an interruption; the second that urges is to be obeyed at once."""
        self.interrupted = self.signalled = True
        if number in _URGING:
            self.urged |= self._told
            self._told = True

    def hear_as(self, other: Stop) -> None:
        """Take the signals that another has heard."""
        self.interrupted |= other.signalled
        self.signalled |= other.signalled
        self.urged |= other.urged
        self._told |= other._told


class Sooner(Stop):
    """Another's, and a budget beside it: what is first ends. Whoever asks for the end asks the other one."""

    def __init__(self, stop: Stop, seconds: float) -> None:
        """Take what else tells whether to end, and the budget."""
        super().__init__(seconds)
        self._stop = stop

    @contextmanager
    def heeding(self, request: Callable[[], bool]) -> Iterator[None]:
        """See Stop."""
        with self._stop.heeding(request):
            yield

    def asked(self) -> bool:
        """See Stop."""
        asked = self._stop.asked()
        self.interrupted = self._stop.interrupted
        return asked or super().asked()


# Those that this process's signals are for, and those of threads, which no signal reaches.
_asked: list[Stop] = []
_beside: list[Stop] = []


@contextmanager
def stoppable(seconds: float | None = None) -> Iterator[Stop]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a request to end in good order; it is taken back in the end.

    A second Ctrl-C or SIGTERM ends at once: it raises KeyboardInterrupt, and so does `asked` from then on. A second
    SIGHUP does not, since shell and system both send one. Where SIGHUP is ignored, as under nohup, or has a handler of
    the caller's, it stays so.
    """
    stop = Stop(seconds)

    def ask(number: int, frame: FrameType | None) -> None:
        # Whoever hears of it later would not where this search, which ends by it, ends first.
        for each in (*_asked, *_beside):
            each.hear(number)
        if stop.urged and number in _URGING:
            raise KeyboardInterrupt

    # What is no handler of Python's, of a program that Python is a part of, could not be put back.
    untouched = {number for number in ENDING if signal.getsignal(number) is None}
    untouched |= {number for number in ENDING[2:] if signal.getsignal(number) is not signal.SIG_DFL}
    before = {}
    _asked.append(stop)
    try:
        for number in ENDING:
            if number not in untouched:
                before[number] = signal.signal(number, HereAlone(ask))
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.remove(stop)


@contextmanager
def stoppable_beside(seconds: float | None = None) -> Iterator[Stop]:
    """Give a thread that no signal reaches what hears of those that `stoppable` hears, as long as this lasts.

    Those that it has heard are heard, too: whatever has been asked to end may wait for this thread.
    """
    stop = Stop(seconds)
    _beside.append(stop)
    for each in tuple(_asked):
        stop.hear_as(each)
    try:
        yield stop
    finally:
        _beside.remove(stop)


class Enclosing:
    """A training, for the searches that it begins in its thread: from it they hear that they are to end.

    Signals are its own search's, which knows that it is to end; in a worker they are nobody's.

    Attributes:
        lost: such a search was interrupted, so that this training comes to nothing.
    """

    def __init__(self, stop_early: Callable[[], bool]) -> None:
        self.lost = False
        self._stop_early = stop_early

    def stop_early(self) -> bool:
        """Tell whether the training is to end; raises KeyboardInterrupt once more where it is lost."""
        if self.lost:
            raise KeyboardInterrupt
        return self._stop_early()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Have it be what encloses the searches that this thread begins meanwhile."""
        before, _here.training = enclosing(), self
        try:
            yield
        finally:
            _here.training = before


_here = threading.local()


def enclosing() -> Enclosing | None:
    """Return the training that this thread is at, None where it is at none."""
    training: Enclosing | None = getattr(_here, "training", None)
    return training


def _begin_anew() -> None:
    """Have a process that a training forks be at none: its search is not there."""
    global _here
    _here = threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
