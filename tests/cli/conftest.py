"""Runs the command line within the tests' own process, as the installed program would."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from stantune.cli import main, options

TINY_FILE = Path(__file__).parents[1] / "tiny_problem.py"
TINY = (f"{TINY_FILE}:problem", "--min-iterations", "6", "--threads", "1", "--rate", "0.5")


@dataclass(frozen=True)
class Run:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be JSON and nothing else."""
        result: dict[str, Any] = json.loads(self.out)
        return result


def run(*arguments: object, stdin: str | None = None) -> Run:
    """Run `stantune ARGUMENTS`; with `stdin`, a person at a terminal types that."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    typed = io.StringIO(stdin or "")
    typed.isatty = lambda: stdin is not None  # type: ignore[method-assign]
    options._state["debug"] = False
    with (
        mock.patch.object(sys, "argv", ["stantune", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", typed),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Run(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def stantune() -> Callable[..., Run]:
    """`run`, for tests, which cannot import this file."""
    return run


@pytest.fixture(scope="session")
def tiny_file() -> Path:
    """The file of the problems that train in a blink."""
    return TINY_FILE


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The arguments of the tiny search: brackets of 9, 5 and 3 trials, up to 60 iterations each."""
    return TINY


@dataclass(frozen=True)
class Whole:
    """The tiny search as it ends undisturbed: its directory, and what it printed under `--json -`."""

    directory: Path
    run: Run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The tiny search, undisturbed."""
    directory = tmp_path_factory.mktemp("whole") / "search"
    return Whole(directory, run("search", *TINY, "--out", directory, "--json", "-"))


@pytest.fixture(scope="session")
def timeless() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Leaves the timings out of a search's JSON."""
    return lambda result: {key: value for key, value in result.items() if key not in ("seconds", "saved")}


@pytest.fixture(scope="session")
def as_whole(whole: Whole, timeless: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
    """Asserts that the JSON of a tiny search is that of the undisturbed one, but for the timings."""

    def check(result: dict[str, Any]) -> None:
        assert timeless(result) == timeless(whole.run.json)

    return check


@pytest.fixture
def cut_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[object, ...]]:
    """Has the tiny search in the test's folder interrupted in its n-th iteration, and returns its command."""

    def cut(iteration: int) -> tuple[object, ...]:
        command = ("search", *TINY, "--out", tmp_path)
        with monkeypatch.context() as patch:
            patch.setenv("TINY_INTERRUPT_AT", str(iteration))
            assert run(*command).code == 1
        return command

    return cut
