"""One thread at a time has what a process has but one of: random states, number formats, the working folder."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stantune.errors import StanWarning

_POLL_SECONDS = 0.1
# So long nobody wonders what it waits for.
_QUIET_SECONDS = 10.0
_turn = threading.RLock()


@contextmanager
def alone(give_up: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Train, or do what disturbs a training, while no other thread does; one that does may do so again within.

    Gives whether its turn came; it does not where `give_up`, asked often, tells to wait no more.
    """
    turn, wonders = _turn, time.monotonic() + _QUIET_SECONDS
    while not turn.acquire(timeout=_POLL_SECONDS):
        if give_up():
            yield False
            return
        if time.monotonic() > wonders:
            wonders += float("inf")
            # Where warnings are errors, it is no reason to end what goes on in a moment.
            with contextlib.suppress(StanWarning):
                warnings.warn(
                    "a training in another thread of this process is waited for, since both would draw from the same "
                    "random numbers; give `workers`, and each search trains in processes of its own",
                    StanWarning,
                    stacklevel=3,
                )
    try:
        yield True
    finally:
        turn.release()


def _begin_anew() -> None:
    """Wait for no thread that the process has not, being a copy of one that had it."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
