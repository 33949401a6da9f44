"""Whether this process is a copy that another one forked: it has that one's memory, and not its other threads.

Where a process has computed in parallel, its OpenMP runtime would wait in such a copy for threads that are not there.
"""

from __future__ import annotations

import os

_forked = False


def forked() -> bool:
    """Tell whether this process was forked after this module was imported."""
    return _forked


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
