"""Whether a directory's lock is held, for those who look."""

from __future__ import annotations

import re
from pathlib import Path

from filelock import FileLock, Timeout

# How what filelock writes begins, where the file system has no locks; elsewhere it writes nothing.
_WRITTEN = re.compile(rb"(filelock/|\d+\n\S+\n)")
_LONGEST = 64


def is_others(file: Path) -> bool:
    """Tell whether what lies at a lock file's place is another program's: it holds what no lock of ours does."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            beginning = opened.read(_LONGEST)
    except OSError:  # to lock it fails as well, which says more
        return False
    return bool(beginning) and not _WRITTEN.match(beginning)


def is_locked(file: Path) -> bool:
    """Tell whether another process holds a lock file; raises OSError where it is not there or may not be read."""
    try:
        import fcntl
    except ImportError:  # Windows, where nobody can look without the right to lock
        lock = FileLock(file)
        try:
            with file.open("rb"), lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
    with file.open("rb") as opened:
        try:
            # A shared one, so that those who look at the same time do not see one another.
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
