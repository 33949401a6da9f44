"""Whether a directory's lock is held, for those who look."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


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
