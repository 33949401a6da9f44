"""How a worker process is started: without the main program, and without what lies in the working folder."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker, spawn, util
from multiprocessing.connection import Connection
from typing import Any

from stantune.search.stopping import ENDING

# Where the process that starts a worker is killed before it has said all, the worker meets the end of what it reads.
_QUIETLY = """\
import pickle
try:
    {program}
except (EOFError, pickle.UnpicklingError):
    raise SystemExit(1) from None
"""


class _Here(threading.local):
    """What a thread is at; what others start meanwhile, data loaders and programs, is started as ever.

    Attributes:
        starts: it starts a worker.
    """

    starts = False


_here = _Here()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Have processes that this thread starts by multiprocessing meanwhile be workers that take nothing from here."""
    _here.starts = True
    try:
        with _signals_held():
            yield
    finally:
        _here.starts = False


def send_order(ours: Connection, theirs: Connection, order: bytes) -> None:
    """Send a process that was just started its order, and close the other end, which it has by now.

    It is none of its arguments: those go through a pipe of which this process holds both ends meanwhile, so that a long
    one waits for ever where nobody is left to read it.
    """
    theirs.close()
    # Where it has ended already, that is noticed in its turn.
    with contextlib.suppress(OSError):
        ours.send_bytes(order)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold Ctrl-C and the like back: here for a moment, in a process started meanwhile until it lets them through."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Started by the first process to be spawned, and it would take our mask away.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What multiprocessing asks as it starts a process, before we did anything.
_usual_flags = util._args_from_interpreter_flags  # type: ignore[attr-defined]
_usual_command_line = spawn.get_command_line
_usual_preparation = spawn.get_preparation_data


def _flags() -> list[str]:
    """Have workers, and what multiprocessing starts with the first, import nothing from the working folder.

    Workers import before they are told from where; then they do as this process does. By the command and not by the
    environment, which the user's own programs would have from them.
    """
    flags: list[str] = _usual_flags()
    return [*flags, "-P"] if _here.starts and not getattr(sys, "frozen", False) else flags


def _command_line(**arguments: Any) -> list[str]:
    """Have workers end without a word where nobody is left to tell them what to do."""
    command = _usual_command_line(**arguments)
    if not _here.starts or "-c" not in command:  # a program that was frozen
        return command
    place = command.index("-c") + 1
    return [*command[:place], _QUIETLY.format(program=command[place]), *command[place + 1 :]]


def _preparation(name: str) -> dict[str, Any]:
    """Have workers not run the main program's file.

    They would, to find what pickles name of it; ours come by value, and a script that calls a search at its top level
    would begin it again in each worker.
    """
    main = sys.modules["__main__"]
    if _here.starts and not hasattr(main, "__spec__"):
        # What stands in for a main program, in a notebook say, may lack what multiprocessing asks for.
        main.__spec__ = None
    data = _usual_preparation(name)
    return {key: value for key, value in data.items() if not (_here.starts and key.startswith("init_main_"))}


# For good, so that no thread ever finds them half changed, or changed back; they do as ever where no worker is started.
util._args_from_interpreter_flags = _flags  # type: ignore[attr-defined]
spawn.get_command_line = _command_line
spawn.get_preparation_data = _preparation
