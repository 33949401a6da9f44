"""Handlers of SIGTERM that are this process's alone: what a training forks ends by that signal, as ever.

`terminate` of `multiprocessing` sends it, and so does a pool that is left; who waits then for the end of a process that
has the search's handler, too, waits for ever. SIGINT and SIGHUP are not sent that way. They go to all processes of a
terminal, and a training can only end in good order where its data loaders do not end by them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType


class HereAlone:
    """A signal's handler; for SIGTERM, processes that this one forks do not have it."""

    def __init__(self, handle: Callable[[int, FrameType | None], None]) -> None:
        self._handle = handle

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """See signal.signal."""
        self._handle(number, frame)


# Of each thread that is forking: the signals that it held back before, None where there is nothing to do.
_forking = threading.local()


def _hold() -> None:
    # Python forgets what comes to a forked process before that is set up.
    ours = isinstance(signal.getsignal(signal.SIGTERM), HereAlone)
    _forking.held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]) if ours else None


def _release(forked: bool) -> None:
    if _forking.held is not None:
        if forked:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.held)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold, after_in_parent=lambda: _release(forked=False), after_in_child=lambda: _release(forked=True)
    )
