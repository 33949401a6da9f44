"""How a worker process is started: without the main program, and without what lies in the working folder."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from multiprocessing import resource_tracker, spawn
from multiprocessing.connection import Connection

from stantune.search.stopping import ENDING

# What is changed meanwhile is the process's, and put back as it was found: threads do that one after the other.
_turn = threading.Lock()
_SAFE_PATH = "PYTHONSAFEPATH"
# Where the process that starts a worker is killed before it has said all, the worker meets the end of what it reads.
_QUIETLY = """\
import pickle
try:
    {program}
except (EOFError, pickle.UnpicklingError):
    raise SystemExit(1) from None
"""


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Have processes that multiprocessing starts meanwhile be workers that take nothing from around here."""
    with _turn, _signals_held(), _no_main_program(), _own_commands():
        yield


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
def _no_main_program() -> Iterator[None]:
    """Have processes that are started meanwhile not run the main program's file.

    They would, to find what pickles name of it; ours come by value, and a script that calls a search at its top level
    would begin it again in each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold Ctrl-C and the like back: here for a moment, in a process started meanwhile until it lets them through."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Started by the first process to be spawned, and it would take our mask away.
    with _safe_path():
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Have Pythons that are started meanwhile import nothing from the working folder."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


@contextlib.contextmanager
def _own_commands() -> Iterator[None]:
    """Have processes that are started meanwhile import nothing from the working folder, and end without a word.

    They import before they are told from where; then they do as this process does. By the command and not by the
    environment, which the user's own programs would have from them.
    """
    usual = spawn.get_command_line

    def command_line(**arguments: object) -> list[str]:
        command = usual(**arguments)
        if "-c" not in command:  # a program that was frozen
            return command
        place = command.index("-c")
        program = _QUIETLY.format(program=command[place + 1])
        return [*command[:place], "-P", "-c", program, *command[place + 2 :]]

    spawn.get_command_line = command_line
    try:
        yield
    finally:
        spawn.get_command_line = usual
