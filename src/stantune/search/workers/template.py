"""A process that has loaded what all workers need, once, and of which they are copies: so they begin at once.

Copying a process (fork) is sound only where it has one thread and no device is in use. That is looked at before each
copy, and where it is not so there is none. Threads that libraries begin on import and know how to end, as NumPy's do,
are ended before. What is loaded before is never written to, so that all copies share its memory.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from stantune.process.forked import threads
from stantune.search.workers.starting import send_order, starting
from stantune.search.workers.worker import settle, work

_SPAWN = multiprocessing.get_context("spawn")
# Where the template is gone, so are its copies: the system kills them with it.
_GONE = -int(signal.SIGKILL) if hasattr(signal, "SIGKILL") else -9
_POLL_SECONDS = 0.01
# For threads to end that are made to.
_ENDING_SECONDS = 0.5
# How often is looked for copies whose end nothing else tells.
_LOOK_SECONDS = 1.0


class _Copy(NamedTuple):
    """To a template: be copied, for the worker with this number; its connection follows."""

    name: int
    place: int


class _Kill(NamedTuple):
    """To a template: end a copy."""

    name: int


class _Began(NamedTuple):
    """From a template: a copy is there."""

    name: int
    process: int


class _Refused(NamedTuple):
    """From a template: there is no copy, and why; there will be none either if it is asked again."""

    name: int
    why: str


class _Over(NamedTuple):
    """From a template: a copy has ended, with this exit code."""

    name: int
    code: int


def can_copy() -> bool:
    """Tell whether this system has templates: elsewhere a copy cannot be made safely, or would outlive a kill."""
    return sys.platform == "linux"


class Template:
    """Starts workers as copies of one process, which is started with the first."""

    def __init__(self, order: bytes, modules: Sequence[str], shares: bool, together: int = 1) -> None:
        """Take what each worker makes its trainer of, and what is loaded beforehand.

        Args:
            order: pickled; see `worker.work`.
            modules: to be imported; those of the user's are none of them, since they may begin threads.
            shares: whether the order is unpickled once for all, and its data loaded by its `load`.
            together: see `worker.work`.
        """
        ours, theirs = _SPAWN.Pipe()
        self._connection = ours
        self._process = _SPAWN.Process(
            target=_serve,
            args=(theirs, tuple(modules), shares, together),
            name="stantune template",
        )
        self._copies: dict[int, TemplateCopy] = {}
        self._gone = False
        with starting():
            self._process.start()
        send_order(ours, theirs, order)

    def start(self, connection: Connection, place: int) -> TemplateCopy:
        """Have a worker start that works on a connection; raises OSError where the template is gone."""
        name = len(self._copies)
        self._connection.send(_Copy(name, place))
        reduction.send_handle(self._connection, connection.fileno(), self._process.pid)
        self._copies[name] = copy = TemplateCopy(self, name)
        return copy

    @property
    def usable(self) -> bool:
        """Tell whether it can still start workers, as far as is known."""
        self.listen()
        return not self._gone

    def kill(self, name: int) -> None:
        """End a copy."""
        with contextlib.suppress(OSError):
            self._connection.send(_Kill(name))

    def listen(self) -> None:
        """Take what the template has said."""
        try:
            while not self._gone and self._connection.poll():
                message = self._connection.recv()
                copy = self._copies[message.name]
                if isinstance(message, _Began):
                    copy.pid = message.process
                elif isinstance(message, _Refused):
                    copy.exitcode, copy.refused = 1, message.why
                else:
                    copy.exitcode = message.code
        except (EOFError, OSError):
            self._gone = True
        if self._gone:
            for copy in self._copies.values():
                if copy.exitcode is None:
                    copy.exitcode, copy.refused = _GONE, "it has ended"

    def close(self) -> None:
        """End it, and all copies that are left with it."""
        self._connection.close()
        self._gone = True
        self._process.kill()
        self._process.join()


class TemplateCopy:
    """A worker's process, as `multiprocessing.Process` shows one.

    Attributes:
        pid: its number; None until it is there.
        exitcode: as Process has it; None until it has ended.
        refused: what is wrong with its template, so that its end says nothing of itself; None where nothing is.
    """

    def __init__(self, template: Template, name: int) -> None:
        self.pid: int | None = None
        self.exitcode: int | None = None
        self.refused: str | None = None
        self._template = template
        self._name = name

    def is_alive(self) -> bool:
        """See Process; one that is to come is alive."""
        self._template.listen()
        return self.exitcode is None

    def join(self, timeout: float | None = None) -> None:
        """See Process."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.is_alive() and (end is None or time.monotonic() < end):
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """See Process."""
        if self.exitcode is None:
            self._template.kill(self._name)
            if self.pid is None:
                # It is still to come, and ends as it comes; nobody need wait for that.
                self.exitcode = _GONE


def _serve(connection: Connection, modules: Sequence[str], shares: bool, together: int) -> None:
    """Load, and be copied; the body of a template's process. It ends when the other side is gone.

    The order is what comes over the connection first.
    """
    settle(trains=False)
    copies: dict[int, BaseProcess] = {}
    with contextlib.suppress(EOFError, OSError):
        make = _loaded(connection.recv_bytes(), modules, shares)
        _end_threads()
        while True:
            # Processes that a copy has forked hold its sentinel, too: where one outlives the copy, that tells nothing.
            wait([connection, *(copy.sentinel for copy in copies.values())], _LOOK_SECONDS if copies else None)
            if connection.poll():
                message = connection.recv()
                if isinstance(message, _Kill):
                    if message.name in copies:
                        copies[message.name].kill()
                else:
                    theirs = Connection(reduction.recv_handle(connection))
                    copy = _copied(connection, theirs, make, message.place, together)
                    theirs.close()
                    if isinstance(copy, str):
                        connection.send(_Refused(message.name, copy))
                    else:
                        assert copy.pid is not None, "it was started"
                        copies[message.name] = copy
                        connection.send(_Began(message.name, copy.pid))
            for name, copy in list(copies.items()):
                if copy.exitcode is not None:
                    connection.send(_Over(name, copy.exitcode))
                    del copies[name]
    # At once: copies that are left are killed by the system.
    os._exit(0)


def _loaded(order: bytes, modules: Sequence[str], shares: bool) -> Callable[[], Any]:
    """Load what copies share; return what gives a copy its order.

    Nothing is said of what fails: it fails again in the copies, whose words are heard.
    """
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    if shares:
        with contextlib.suppress(Exception):
            whole = pickle.loads(order)
            whole.load()
            return lambda: whole
    return lambda: pickle.loads(order)


def _end_threads() -> None:
    """Have threads end that libraries began on import and end by themselves where their process is copied.

    OpenBLAS, NumPy's, begins its threads wherever there is more than one core; it ends them before each copy, and
    begins as many anew where it next needs them. So a copy for nothing ends them, and those to come have the threads,
    and the bits, of any other process.
    """
    if threads() == 1:
        return
    with contextlib.suppress(OSError), warnings.catch_warnings(action="ignore"):
        process = os.fork()
        if not process:
            os._exit(0)
        end = time.monotonic() + _ENDING_SECONDS
        while not os.waitpid(process, os.WNOHANG)[0]:
            if time.monotonic() >= end:
                os.kill(process, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        # The system counts a thread for a moment longer than it runs.
        while threads() > 1 and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)


def _copied(
    command: Connection, connection: Connection, make: Callable[[], Any], place: int, together: int
) -> BaseProcess | str:
    """Start a copy that works on a connection; say why where this process cannot be copied."""
    if (count := threads()) > 1:
        return f"it has {count} threads"

    def body() -> None:
        command.close()
        work(connection, make, place, together)

    copy = multiprocessing.get_context("fork").Process(target=body, name=f"stantune worker {place}")
    try:
        copy.start()
    except OSError as error:
        return error.strerror or type(error).__name__
    return copy
