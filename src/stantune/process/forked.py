"""Whether this process is a copy of one that had other threads: it has that one's memory, and not those threads.

Where a process has computed in parallel, its OpenMP runtime would wait in such a copy for threads that are not there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# In a process's flags: it was forked, and has run no other program since (Linux's sched.h).
_PF_FORKNOEXEC = 0x40


def forked() -> bool:
    """Tell whether this process was forked by one that had other threads, or may have had some."""
    return _forked


def threads() -> int:
    """Return how many threads this process has, Python's and all others; on Linux alone."""
    return len(os.listdir("/proc/self/task"))


def _began_as_copy() -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # What follows the program's name, which may hold anything, begins with the third field; flags are the ninth.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        return bool(int(fields[6]) & _PF_FORKNOEXEC)
    return False


def _look_before() -> None:
    global _threads_there
    _threads_there = True
    with contextlib.suppress(OSError):
        _threads_there = threads() > 1


def _note_fork() -> None:
    global _forked
    _forked = _forked or _threads_there


# What was forked before this module was imported: nobody knows by what.
_forked = _began_as_copy()
_threads_there = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_look_before, after_in_child=_note_fork)
