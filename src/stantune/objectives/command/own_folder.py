"""A folder that one training has for itself, though another, lost with the way to its node, may still be at work."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Is locked while somebody is at work in its folder; the system unlocks it when that process is gone.
IN_USE = "in-use"
STATE = "state"
# The worker of a search that was killed is gone in a moment; one on a node that nobody reaches is not.
PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.05
# So often in a row nobody deletes a folder while another one makes it.
MOST_GONE = 20


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """Give a folder for a command's state and logs, without a state in it; raises OSError.

    It is `folder`, or one in it, of the next number, where another process is still at work after a while.
    """
    end, own, numbers = time.monotonic() + PATIENCE_SECONDS, folder, itertools.count(2)
    while (held := _locked(own, end)) is None:
        own = folder / f"attempt-{next(numbers)}"
    state = own / STATE
    try:
        shutil.rmtree(state, ignore_errors=True)
        yield own
    finally:
        shutil.rmtree(state, ignore_errors=True)
        (own / IN_USE).unlink(missing_ok=True)
        os.close(held)
        with contextlib.suppress(OSError):  # there are logs in it
            own.rmdir()


def _locked(own: Path, end: float) -> int | None:
    """Open and lock the file that says who has a folder; None where another still has it at the `end`."""
    import fcntl  # there is none on Windows

    file, gone = own / IN_USE, 0
    while True:
        try:
            own.mkdir(parents=True, exist_ok=True)
            opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):
            # Who had it deletes the folder, too, in the middle of this.
            gone += 1
            if own.is_file() or gone > MOST_GONE:
                raise
            time.sleep(POLL_SECONDS)
            continue
        gone = 0
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            if time.monotonic() > end:
                return None
            time.sleep(POLL_SECONDS)
            continue
        except OSError:  # a file system that knows no locks, where nobody is told of anybody
            return opened
        # Who had it may have deleted it in between.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(opened), file.stat()):
                return opened
        os.close(opened)
