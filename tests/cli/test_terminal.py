"""The installed program on a pseudo-terminal, as a person sees it: the live view, Ctrl-C, and the closing tables."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
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

    def __init__(self, *arguments: str, log: Path, before: Callable[[], object] = lambda: None) -> None:
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
            preexec_fn=lambda: (_take_terminal(), before()),
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self._shown, self._log = b"", log

    def read(self) -> None:
        """Take what was shown since the last time."""
        # BlockingIOError: nothing new; OSError (EIO): the program has closed its end.
        try:
            while piece := os.read(self._master, 65536):
                self._shown += piece
        except OSError:
            pass

    def wait_for(self, iterations: int) -> None:
        """Wait until so many iterations were trained."""
        end = time.monotonic() + LIMIT_SECONDS
        while not self._log.exists() or len(self._log.read_bytes().splitlines()) < iterations:
            assert self.process.poll() is None
            assert time.monotonic() < end
            self.read()
            time.sleep(0.002)

    def lose(self) -> int:
        """Close the terminal, as a lost ssh line does; return the exit code when the program has ended."""
        os.close(self._master)
        self._master = os.open(os.devnull, os.O_RDWR)
        return self.process.wait(LIMIT_SECONDS)

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
def terminal(*arguments: object, log: Path, before: Callable[[], object] = lambda: None) -> Iterator[Terminal]:
    """Run `stantune ARGUMENTS` on a terminal; its process calls `before` first."""
    running = Terminal(*map(str, arguments), log=log, before=before)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_live_view_and_ctrl_c(
    stantune: Callable[..., Any], tiny: tuple[str, ...], as_whole: Callable[..., None], tmp_path: Path, workers: int
) -> None:
    command, log = ("search", *tiny, "--out", tmp_path / "out"), tmp_path / "log"
    # Typed at a terminal, Ctrl-C goes to the workers as well, who leave it to the search.
    with terminal(*command, "--workers", workers, log=log) as running:
        running.wait_for(60)
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
    assert not [line for line in lines if len(line.rstrip()) > 80]

    ended = stantune(*command, "--json", "-")
    assert ended.code == 0
    as_whole(ended.json)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_lost_terminal_ends_the_search_in_good_order(
    stantune: Callable[..., Any], tiny: tuple[str, ...], as_whole: Callable[..., None], tmp_path: Path, workers: int
) -> None:
    command, log = ("search", *tiny, "--out", tmp_path / "out"), tmp_path / "log"
    with terminal(*command, "--workers", workers, log=log) as running:
        running.wait_for(60)
        assert running.lose() == 1
    trainers = {int(line.split()[0]) for line in log.read_text().splitlines()}
    assert not [process for process in trainers if Path(f"/proc/{process}").exists()]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert not result["complete"], "it was written in spite of all"
    ended = stantune(*command, "--json", "-")
    assert ended.code == 0
    as_whole(ended.json)


def test_lost_terminal_under_nohup_ends_nothing(
    tiny: tuple[str, ...], as_whole: Callable[..., None], tmp_path: Path
) -> None:
    command, log = ("search", *tiny, "--out", tmp_path / "out"), tmp_path / "log"
    with terminal(*command, log=log, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as running:
        running.wait_for(60)
        assert running.lose() == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    as_whole(result)


@pytest.mark.parametrize("command", ["train", pytest.param("compare", marks=pytest.mark.slow)])
def test_lost_terminal_ends_a_training_in_good_order(tiny_file: Path, tmp_path: Path, command: str) -> None:
    log, kept = tmp_path / "log", ("--checkpoint", tmp_path / "x.pt") if command == "train" else ()
    options = ("--iterations", 100_000, "--threads", 1, *kept)
    with terminal(command, f"{tiny_file}:problem", *options, log=log) as running:
        running.wait_for(60)
        assert running.lose() == 1
    assert not kept or kept[1].is_file()


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


COMMANDS = ("search", "brackets", "train", "compare", "profile", "entries")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_takes_the_first_seconds_is_said_before(tmp_path: Path, command: str) -> None:
    for slow in ("torch", "optuna", "sqlalchemy", "numpy"):
        (tmp_path / f"{slow}.py").write_text("raise SystemExit('it is loaded now')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TERM": "xterm", "COLUMNS": "80"}
    master, slave = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    with subprocess.Popen([*PROGRAM, command, "lenet"], env=environment, **streams) as run:  # type: ignore[call-overload]
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # it has ended
            while piece := os.read(master, 65536):
                shown += piece
    os.close(master)
    first, *rest = shown.decode().splitlines()
    assert first == "loading PyTorch and the problem …"
    assert rest, "and then it is loaded"
    assert run.returncode != 0


def test_nothing_of_that_is_said_where_nobody_waits(stantune: Callable[..., Any]) -> None:
    ended = stantune("problems", "lenet")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("lenet: ")
