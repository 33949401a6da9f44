"""What the program does with its standard streams: JSON alone, a pipe that nobody reads, a disk that is full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Stantune = Callable[..., Any]
PROGRAM = (sys.executable, "-m", "stantune")
# Printed when the file is imported, when a network is made, when it trains, and as the program ends.
NOISE = """

import atexit, ctypes, subprocess

def loud(text):
    print(text)
    os.write(1, text.encode() + b"\\n")
    subprocess.run(["echo", text], check=True)
    libc = ctypes.CDLL(None)
    libc.puts(text.encode())

loud("imported")
atexit.register(loud, "ended")

def loud_network(quiet=network):
    loud("made")
    return quiet()

import dataclasses
problem = dataclasses.replace(problem, network=loud_network)
"""


def started(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Run `stantune ARGUMENTS` in a process of its own."""
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], **options)


@pytest.fixture
def loud_file(tiny_file: Path, tmp_path: Path) -> Path:
    """The tiny problem, and much that is printed."""
    file = tmp_path / "loud.py"
    file.write_text(tiny_file.read_text() + NOISE)
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="calls the C library")
def test_what_a_problem_prints_is_not_in_the_json(loud_file: Path) -> None:
    process = started(
        "train", f"{loud_file}:problem", "--iterations", 2, "--threads", 1, "--json", "-", stdout=subprocess.PIPE
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["iterations"] == 2
    for words in (b"imported", b"made", b"ended"):
        assert err.count(words) >= 4, "printed by Python, to the descriptor, by another program and by C"


@pytest.mark.parametrize(
    "command",
    [
        ("problems",),
        ("brackets",),
        ("search", "--max-iterations", 6, "--min-iterations", 6),
        ("compare", "--seeds", 1, "--iterations", 2),
        ("profile", "--iterations", 2),
        ("entries", "--iterations", 0),
    ],
    ids=lambda command: command[0],
)
def test_each_command_has_standard_output_for_its_json(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[Any, ...]
) -> None:
    if command[0] == "entries":
        pytest.importorskip("matplotlib")
    file = tmp_path / "loud.py"
    file.write_text(f"{tiny_file.read_text()}\nprint('imported')\n")
    monkeypatch.chdir(tmp_path)
    threads = () if command[0] == "problems" else ("--threads", 1)
    run = stantune(command[0], f"{file}:problem", *command[1:], *threads, "--json", "-")
    assert run.code == 0, run.err
    assert run.json["schema_version"].startswith("stantune.")
    assert "imported" in run.err


def closed_pipe() -> int:
    """Return the writing end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


def test_reader_that_is_gone_ends_nothing(tiny_file: Path, tmp_path: Path) -> None:
    out, pipe = tmp_path / "out", closed_pipe()
    options = ("--max-iterations", 6, "--min-iterations", 6, "--threads", 1, "--out", out)
    process = started("search", f"{tiny_file}:problem", *options, stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert process.wait(120) == 0
    assert json.loads((out / "result.json").read_text())["complete"]


@pytest.mark.parametrize("json_too", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("where", ["pipe", "full disk"])
def test_what_could_not_be_printed_is_told(where: str, json_too: bool) -> None:
    if where == "full disk" and not Path("/dev/full").exists():
        pytest.skip("no such device")
    stdout = closed_pipe() if where == "pipe" else os.open("/dev/full", os.O_WRONLY)
    process = started("problems", *(("--json", "-") if json_too else ()), stdout=stdout)
    os.close(stdout)
    _, err = process.communicate(timeout=60)
    if where == "pipe" and not json_too:
        # As `| head -1` does it: who closes it has read enough.
        assert (process.returncode, err) == (0, b"")
    else:
        assert process.returncode == 1
        assert err.decode().splitlines()[-1] == (
            f"stantune: {'--json -' if json_too else 'standard output'} cannot be written "
            f"({'Broken pipe' if where == 'pipe' else 'No space left on device'}); "
            f"{'name another file' if json_too else 'send it somewhere else'}"
        )


def test_closed_streams_are_nobody_else_s(tiny_file: Path, tmp_path: Path) -> None:
    # Without standard output the first file that is opened would get its number, and what is printed.
    options = ("--max-iterations", "6", "--min-iterations", "6", "--threads", "1", "--out", str(tmp_path / "out"))
    words = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *PROGRAM, "search", f"{tiny_file}:problem", *options]
    assert subprocess.run(words, stdin=subprocess.DEVNULL, timeout=120).returncode == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("problems", "--json"),
        ("brackets", "--json"),
        ("search", "--json"),
        ("train", "--json"),
        ("train", "--checkpoint"),
        ("compare", "--json"),
        ("profile", "--json"),
        ("entries", "--json"),
        ("entries", "--out"),
        ("doctor", "--json"),
        ("data", "--json"),
    ],
)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may make a file")
def test_a_place_that_cannot_be_written_is_found_at_once(
    stantune: Stantune, tiny_file: Path, command: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_LOG", "/proc/nothing")  # whoever trains fails
    what = {"doctor": (), "data": ("fetch", "mnist")}.get(command, (f"{tiny_file}:problem",))
    run = stantune(command, *what, option, "/proc/x.png")
    assert run.code == 2
    assert run.out == ""
    (line,) = run.err.splitlines()
    assert line.startswith(f"stantune: {option} /proc/x.png cannot be written (")
    assert line.endswith("); name another file")
