"""Ends a search in good order: on Ctrl-C, SIGTERM, a lost terminal, or when its budget of time is spent."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from stantune.search.forks import HereAlone

# What asks a program to end; the last one, which not every system has, tells that the terminal or the ssh line is lost.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# How often is looked whether another process has asked for it.
REQUEST_SECONDS = 1.0


class Stop:
    """Whether the command is to end: its budget is spent, or somebody asked for it.

    Attributes:
        interrupted: somebody asked for it.
        urged: somebody asked twice, and is to be obeyed at once.
        signalled: a signal asked for it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.interrupted = self.urged = self.signalled = False
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
        if self._requests and time.monotonic() >= self._next:
            self._next = time.monotonic() + REQUEST_SECONDS
            self.interrupted |= any(request() for request in self._requests)
        return self.interrupted or (self._deadline is not None and time.monotonic() >= self._deadline)


# Those that hear this process's signals.
_hearing: list[Stop] = []


def signalled() -> bool:
    """Tell threads that no signal reaches whether one has asked this process to end; raises as `Stop.asked`."""
    hearing = list(_hearing)
    if any(stop.urged for stop in hearing):
        raise KeyboardInterrupt
    return any(stop.signalled for stop in hearing)


@contextmanager
def stoppable(seconds: float | None = None) -> Iterator[Stop]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a request to end in good order; it is taken back in the end.

    A second Ctrl-C or SIGTERM ends at once: it raises KeyboardInterrupt, and so does `asked` from then on. A second
    SIGHUP does not, since shell and system both send one. Where SIGHUP is ignored, as under nohup, or has a handler of
    the caller's, it stays so.
    """
    stop = Stop(seconds)
    told = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal told
        stop.interrupted = stop.signalled = True
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        if told:
            stop.urged = True
            raise KeyboardInterrupt
        told = True

    untouched = {number for number in ENDING[2:] if signal.getsignal(number) is not signal.SIG_DFL}
    before = {number: signal.signal(number, HereAlone(ask)) for number in ENDING if number not in untouched}
    _hearing.append(stop)
    try:
        yield stop
    finally:
        _hearing.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)
