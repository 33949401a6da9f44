"""The installed program on a pseudo-terminal, as a person sees it: the live view, Ctrl-C, and the closing tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = (sys.executable, "-c", "from stantune.cli import main; main()")
LIMIT_SECONDS = 120

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")


class Terminal:
    """A program whose three streams are a terminal of 80 columns."""

    def __init__(self, *arguments: str, log: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TINY_")}
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TINY_LOG": str(log), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            # A session whose terminal this is, so that Ctrl-C typed here becomes SIGINT there.
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self._shown = b""

    def read(self) -> None:
        """Take what was shown since the last time."""
        # BlockingIOError: nothing new; OSError (EIO): the program has closed its end.
        try:
            while piece := os.read(self._master, 65536):
                self._shown += piece
        except OSError:
            pass

    def type(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._master, keys)

    def wait(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and all that was ever shown."""
        end = time.monotonic() + LIMIT_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < end, self._shown
            self.read()
            time.sleep(0.02)
        self.read()
        return self.process.returncode, self._shown.decode()

    def close(self) -> None:
        """End the program if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(*arguments: object, log: Path) -> Iterator[Terminal]:
    """Run `stantune ARGUMENTS` on a terminal."""
    running = Terminal(*map(str, arguments), log=log)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_live_view_and_ctrl_c(
    whole: Any, stantune: Callable[..., Any], tiny: tuple[str, ...], timeless: Any, tmp_path: Path, workers: int
) -> None:
    command, log = ("search", *tiny, "--out", tmp_path / "out"), tmp_path / "log"
    # Typed at a terminal, Ctrl-C goes to the workers as well, who leave it to the search.
    with terminal(*command, "--workers", workers, log=log) as running:
        end = time.monotonic() + LIMIT_SECONDS
        while not log.exists() or len(log.read_bytes().splitlines()) < 60:
            assert running.process.poll() is None
            assert time.monotonic() < end
            running.read()
            time.sleep(0.002)
        running.type(b"\x03")
        code, shown = running.wait()
    assert code == 1
    assert "Traceback" not in shown
    assert "stantune: interrupted; nothing is lost, the same command goes on from here" in shown
    for words in ("bracket ", "trial ", "trials ", "best validation error ", "iterations/s", "time left "):
        assert words in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is hidden, and comes back"
    # Escape sequences away, no line is longer than the terminal is wide: nothing wraps.
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80

    ended = stantune(*command, "--json", "-")
    assert ended.code == 0
    assert timeless(ended.json) == timeless(whole.run.json)


def test_json_alone_on_standard_output(tiny_file: Path, tmp_path: Path) -> None:
    # A process of its own: what libraries print, and at its very end, counts too.
    done = subprocess.run(
        [*PROGRAM, "train", f"{tiny_file}:flat", "--threads", "1", "--json", "-"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    assert done.stdout.startswith("{\n")
    assert done.stdout.endswith("}\n")
    assert "Warning" not in done.stderr
