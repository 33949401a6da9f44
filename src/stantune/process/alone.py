"""One thread at a time has what a process has but one of: random states, number formats, the working folder."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from stantune.errors import StantuneError, StanWarning

_POLL_SECONDS = 0.1
# So long nobody wonders what it waits for.
_QUIET_SECONDS = 10.0


class NoTurnError(StantuneError):
    """What has to be done in a turn was not, since it was to end before its turn came."""


class Found(NamedTuple):
    """What PyTorch is set to, and its number of threads, None without PyTorch."""

    settings: dict[str, Any]
    threads: int | None


class _Turn:
    """What one thread has at a time.

    Attributes:
        lock: of the thread.
        depth: how often that thread has it, within one another.
        before: what it found.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0
        self.before: Found | None = None

    def enter(self) -> None:
        """Note what there is before a training sets something for itself."""
        self.depth += 1
        if self.depth == 1:
            self.before = _now()

    def leave(self) -> None:
        """Give it back."""
        self.depth -= 1
        if self.depth == 0:
            self.before = None
        self.lock.release()


_turn = _Turn()


@contextmanager
def alone(give_up: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Train, or do what disturbs a training, while no other thread does; one that does may do so again within.

    Gives whether its turn came; it does not where `give_up`, asked often, tells to wait no more.
    """
    turn, wonders = _turn, time.monotonic() + _QUIET_SECONDS
    while not turn.lock.acquire(timeout=_POLL_SECONDS):
        if give_up():
            yield False
            return
        if time.monotonic() > wonders:
            wonders += float("inf")
            # Where warnings are errors, it is no reason to end what goes on in a moment.
            with contextlib.suppress(StanWarning):
                warnings.warn(
                    "a training in another thread of this process is waited for, since both would draw from the same "
                    "random numbers; give `workers`, and each search trains in processes of its own. One that itself "
                    "waits for this thread would wait for ever: end it (Ctrl-C), and train in the thread that waits",
                    StanWarning,
                    stacklevel=3,
                )
    try:
        turn.enter()
        yield True
    finally:
        turn.leave()


def found() -> Found:
    """Return what is set where no training sets something for itself: as another thread found it that trains now."""
    turn = _turn
    while True:
        if turn.lock.acquire(blocking=False):
            try:
                return _now()
            finally:
                turn.lock.release()
        if (before := turn.before) is not None:
            now = _now()
            return Found(_shared(before.settings, now.settings), before.threads)
        # Another thread has just taken its turn, or has just given it back.
        time.sleep(0.001)


def _now() -> Found:
    if "torch" not in sys.modules:
        return Found({}, None)
    import torch

    from stantune.process.settings import unusual_settings

    return Found(unusual_settings(), torch.get_num_threads())


def _shared(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    if "torch" not in sys.modules:
        return now
    from stantune.process.settings import OF_A_THREAD

    return {name: value for name, value in before.items() if name not in OF_A_THREAD} | {
        name: value for name, value in now.items() if name in OF_A_THREAD
    }


def _begin_anew() -> None:
    """Wait for no thread that the process has not, being a copy of one that had it."""
    global _turn
    _turn = _Turn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
