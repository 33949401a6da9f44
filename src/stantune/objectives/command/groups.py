"""A command in a process group of its own, of which nothing outlives its end, or the end of this process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stantune.errors import StantuneError
from stantune.process.groups import GuardError, guarded_group, passes, starting_in
from stantune.search.stopping import ENDING

POLL_SECONDS = 0.05
# For a command that is asked to end, before it is killed.
GRACE_SECONDS = 5.0
# A batch system's signal goes to the command, too; how long the word that the search ends may take to come here.
WORD_SECONDS = 1.0
_ASKED_TO_END = {code for number in ENDING for code in (-number, 128 + number)}


class Output(NamedTuple):
    """Files to which a command's output is added."""

    stdout: Path
    stderr: Path


def run(
    words: Sequence[str],
    *,
    shell: bool,
    cwd: Path,
    env: Mapping[str, str],
    output: Output,
    stop_early: Callable[[], bool],
    heard: Callable[[str], None],
) -> int | None:
    """Run a command to its end, and end all that it has left running.

    Args:
        words: its arguments; with `shell`, a line.
        shell: whether a shell reads that line.
        cwd: the folder in which it runs.
        env: its whole environment.
        output: where what it says goes.
        stop_early: asked often; when true the command is asked to end, and killed if it does not.
        heard: is given each line of its stdout, soon after it is written.

    Returns:
        Its exit code, negative for the signal that killed it; None where it was ended early, by whomever.

    Raises:
        GuardError: what guards it was killed, so that it was ended, too, or did not start.
        OSError: it cannot be started now; see `passes`.
        StantuneError: it cannot be started.
    """
    with output.stdout.open("ab") as out, output.stderr.open("ab") as err, output.stdout.open("rb") as written:
        written.seek(0, os.SEEK_END)
        lines = _Lines(written, heard)
        with guarded_group() as guard:
            process = _started(words, shell, cwd, env, out, err, guard)
            code, lost = None, False
            while code is None and not lost and not stop_early():
                code = _ended(process, POLL_SECONDS)
                lines.read()
                # While the command is not waited for, its group has this number, with a guard or without.
                lost = code is None and guard.poll() is not None
            if code is None and not lost:
                os.killpg(guard.pid, signal.SIGTERM)
                _ended(process, GRACE_SECONDS)
        # Killed with its group, unless it has ended.
        process.wait()
        lines.read()
        lines.close()
    # One that has ended by then may have been asked to by somebody else, and says so by any code, 0 among them.
    if _is_stopped(code, stop_early):
        return None
    if lost:
        raise GuardError(f"the process that ends the command when this one is gone has ended with {guard.returncode}")
    return code


def _is_stopped(code: int | None, stop_early: Callable[[], bool]) -> bool:
    """Tell whether the search ends, after waiting for the word of it where the exit code is that of being asked to."""
    end = time.monotonic() + (WORD_SECONDS if code in _ASKED_TO_END else 0)
    while not (stopped := stop_early()) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return stopped


def _started(
    words: Sequence[str],
    shell: bool,
    cwd: Path,
    env: Mapping[str, str],
    out: BinaryIO,
    err: BinaryIO,
    guard: subprocess.Popen[bytes],
) -> subprocess.Popen[bytes]:
    try:
        with _usual_signals(), starting_in(guard):
            return subprocess.Popen(
                words[0] if shell else words,
                shell=shell,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=guard.pid,
            )
    except OSError as error:
        if passes(error):
            raise
        raise StantuneError(
            f"the command {words[0]!r} cannot be started in {cwd} ({error.strerror or error}); see that the program "
            "is there and may be run"
        ) from error


@contextmanager
def _usual_signals() -> Iterator[None]:
    """Have a process that is started meanwhile obey the signals that this one ignores, as a search's workers do.

    What is ignored stays ignored in a new program; a handler, even one that does nothing, does not.
    """
    ignored = []
    if threading.current_thread() is threading.main_thread():
        ignored = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda number, frame: None)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a process, but not for long; return its exit code, None where it still runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None


class _Lines:
    """Gives the lines of a file that is being written."""

    def __init__(self, file: BinaryIO, heard: Callable[[str], None]) -> None:
        self._file = file
        self._heard = heard
        self._rest = b""

    def read(self) -> None:
        """Give the lines that are whole by now."""
        while new := self._file.read(1 << 20):
            # A progress bar writes one line over the other.
            *lines, self._rest = (self._rest + new.replace(b"\r", b"\n")).split(b"\n")
            for line in lines:
                self._heard(line.decode(errors="replace"))

    def close(self) -> None:
        """Give what comes after the last line's end."""
        if self._rest:
            self._heard(self._rest.decode(errors="replace"))


def last_line(path: Path, since: int) -> str:
    """Return the last line of a file that is not empty, of those after its first `since` bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(since, size - 10_000))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def size_of(path: Path) -> int:
    """Return a file's length, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def stamp() -> str:
    """Return the time of day for a log."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
