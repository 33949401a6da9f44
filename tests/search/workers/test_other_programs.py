"""Programs that are no ordinary script: what workers and commands cannot do in them is said, and nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import stantune as st
from stantune.process import groups
from stantune.search.stopping import stoppable

posix = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors as POSIX has them")

SCRIPT = """
import os, signal, sys
import stantune as st

def train(run):
    return run.params["x"]

if __name__ == "__main__":
    exec(sys.argv[1])
    how = {"max_resource": 2, "workers": 2, "threads": 1, "out": sys.argv[2]}
    try:
        said = st.tune(train, st.Space({"x": st.Float(0, 1)}), minimize="x", **how).complete
    except st.UsageError as error:
        said = error
    with open(sys.argv[2] + ".txt", "w") as file:
        file.write(str(said))
"""


def said(before: str, tmp_path: Path, **how: object) -> str:
    """Return what comes of a search with workers in a program that does `before`."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    command = [sys.executable, str(file), before, str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=120, **how)  # type: ignore[call-overload]
    return (tmp_path / "out.txt").read_text()


@posix
def test_a_program_that_ignores_the_ends_of_its_children_is_told(tmp_path: Path) -> None:
    assert "ignores SIGCHLD" in said("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", tmp_path)
    what = st.CommandObjective(
        f"{sys.executable} -c 'raise SystemExit(3)' {{x}}", st.Space({"x": st.Float(0, 1)}), minimize="y"
    )
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        # A command that fails would have succeeded.
        with pytest.raises(st.UsageError, match="ignores SIGCHLD"):
            st.tune(what, max_resource=2, threads=1, out=tmp_path / "command")
    finally:
        signal.signal(signal.SIGCHLD, before)


@posix
def test_the_command_line_hears_of_its_children_in_any_case(tmp_path: Path) -> None:
    tiny_file = Path(__file__).parents[2] / "tiny_problem.py"
    command = [sys.executable, "-m", "stantune", "search", f"{tiny_file}:problem", "--max-iterations", "2"]
    command += ["--workers", "2", "--out", str(tmp_path / "out"), "--rate", "1"]
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )
    assert found.returncode == 0, found.stderr


def test_a_daemonic_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(st.UsageError, match=r"daemonic.*leave `workers` and limits of trials .*, or begin in"):
        groups.require_workers()


@posix
def test_a_handler_that_is_not_python_s_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a program that Python is a part of."""
    before, usual = signal.getsignal(signal.SIGINT), signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGINT else usual(number))
    with stoppable() as stop:
        assert usual(signal.SIGINT) is before
    assert not stop.asked()


@posix
def test_without_standard_output_workers_train(tmp_path: Path) -> None:
    assert said("", tmp_path, preexec_fn=lambda: os.close(1)) == "True"


@posix
def test_a_system_without_waitid_says_what_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid", raising=False)
    with groups.guarded_group() as guard, pytest.raises(PermissionError, match="not mine"), groups.starting_in(guard):
        raise PermissionError("not mine")
