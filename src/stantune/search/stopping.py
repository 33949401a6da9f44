"""Ends a search in good order: on Ctrl-C, on SIGTERM, or when its budget of time is spent."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the command is to end: its budget is spent, or somebody asked for it.

    Attributes:
        interrupted: somebody asked for it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.interrupted = False
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def asked(self) -> bool:
        """Tell whether to end now."""
        return self.interrupted or (self._deadline is not None and time.monotonic() >= self._deadline)


@contextmanager
def stoppable(seconds: float | None = None) -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request to end in good order; a second one ends at once (KeyboardInterrupt)."""
    stop = Stop(seconds)

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.interrupted:
            raise KeyboardInterrupt
        stop.interrupted = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
