"""A folder that one training has for itself, though another, lost with the way to its node, may still be at work."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Says in a folder who is at work there: process and machine.
IN_USE = "in-use"
STATE = "state"


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """Give a folder for a command's state and logs, without a state in it; raises OSError.

    It is `folder`, or one in it, of the next number, where another process may still be at work. Of this machine's is
    known which are gone. Of another's nobody knows, so that what one has left when it was killed stays.
    """
    for number in itertools.count(1):
        own = folder if number == 1 else folder / f"attempt-{number}"
        note = own / IN_USE
        if not _is_held(note):
            break
    own.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{os.getpid()} {platform.node()}")
    state = own / STATE
    shutil.rmtree(state, ignore_errors=True)
    try:
        yield own
    finally:
        shutil.rmtree(state, ignore_errors=True)
        with contextlib.suppress(OSError):  # there are logs in it
            note.unlink(missing_ok=True)
            own.rmdir()


def _is_held(note: Path) -> bool:
    """Tell whether who has left a note may still be at work; one that was cut as it was written is nobody's."""
    try:
        process, _, machine = note.read_text().partition(" ")
        if machine == platform.node() and int(process) != os.getpid():
            os.kill(int(process), 0)
            return True
    except (OSError, ValueError, OverflowError):
        return False
    return machine not in ("", platform.node())
