"""How processes begin that a training starts: as copies, for what is the user's here nobody else can import."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import context


def chosen_method() -> str | None:
    """Return how this program has chosen that processes start; None for none, or for what is Python's default.

    In a process that multiprocessing has started it has chosen itself, the default perhaps.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return None if chosen == multiprocessing.get_all_start_methods()[0] else chosen


def copy_processes() -> None:
    """Have multiprocessing start processes as copies (fork) on Linux by default, as it does before Python 3.14.

    Functions and classes of the user's come to a worker by value, and files of theirs have names of ours: a process
    that is started anew, as a data loader's is from Python 3.14 on, looks for them in vain. For processes of our own
    alone; what is chosen in their program, before or after, and is not Python's default, stays.
    """
    usual = multiprocessing.get_all_start_methods()[0]
    if sys.platform != "linux" or usual == "fork" or chosen_method() is not None:
        return
    if multiprocessing.get_start_method(allow_none=True) is None:
        # What the default is can be told in no other way: to choose would have the user's own choice refused.
        context._default_context._default_context = multiprocessing.get_context("fork")  # type: ignore[attr-defined]  # unknown to typeshed
    else:
        # Whoever chooses in a process that multiprocessing has started must insist anyway.
        multiprocessing.set_start_method("fork", force=True)
