"""Process groups of which nothing outlives this process, however that ends; POSIX only."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from stantune.errors import UsageError

# Reads from this process until it is gone, however that came about, and then ends the group that it leads. So children
# of the command's own are ended too, which a parent's death signal would not reach.
_GUARD = "trap '' TERM INT HUP; read -r line; kill -KILL 0"

# The system has no process, memory or file to spare, or a program is still being written: all that passes.
_PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}


def passes(error: OSError) -> bool:
    """Tell whether what could not be started may be started in a while, and nothing is wrong with it."""
    return error.errno in _PASSING


class GuardError(Exception):
    """What runs in a group has nothing any more that would end it with this process."""


@contextmanager
def guarded_group() -> Iterator[subprocess.Popen[bytes]]:
    """Give the leader of a new process group, whose number is the group's; in the end, all that is in it is killed."""
    # The guard leads the group, so that the number stays the group's until the guard is waited for.
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    assert guard.stdin is not None
    try:
        yield guard
    finally:
        with contextlib.suppress(OSError):
            os.killpg(guard.pid, signal.SIGKILL)
        guard.stdin.close()
        guard.wait()


@contextmanager
def starting_in(guard: subprocess.Popen[bytes]) -> Iterator[None]:
    """Start a program in the group that a guard leads.

    Raises:
        GuardError: the guard was killed before it led one, so that nobody may enter it (EPERM).
        OSError: as `subprocess.Popen`.
    """
    try:
        yield
    except PermissionError as error:
        # Not waited for: the number stays the guard's. (macOS has that since Python 3.13.)
        if hasattr(os, "waitid") and (ended := os.waitid(os.P_PID, guard.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            raise GuardError(f"the process that ends the group has ended with {-ended.si_status}") from error
        raise


def require_ends() -> None:
    """Raise UsageError where this process does not learn how those that it starts end: a failure would be a success."""
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        raise UsageError(
            "this program ignores SIGCHLD, so that it does not learn how the processes that it starts end; call "
            "signal.signal(signal.SIGCHLD, signal.SIG_DFL) before"
        )


def require_workers() -> None:
    """Raise UsageError where this process may start none by multiprocessing, or does not learn how they end."""
    if multiprocessing.current_process().daemon:
        raise UsageError(
            "this process is daemonic, as those of a multiprocessing.Pool are, and such a one may start no others; "
            "leave `workers` and limits of trials (`trial_timeout`, `trial_memory`) away, or begin in a process that "
            "is not daemonic, which a study needs in any case"
        )
    require_ends()
