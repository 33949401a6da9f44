"""How worker processes start: nothing of the working folder is run, and nothing said where the search is gone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import spawn, util
from pathlib import Path

import pytest
from numbers_objective import Numbers
from numbers_search import run as search
from traps import COMMAND, INSTALLED, PYTHONS, set_traps, sprung

from stantune.errors import StantuneError
from stantune.search.workers import workers as workers_module
from stantune.search.workers.starting import starting

TINY_FILE = Path(__file__).parents[2] / "tiny_problem.py"
# Not those that `python -m` itself imports from there before it runs anything.
LATER = (
    "dataclasses",
    "json",
    "logging",
    "numpy",
    "optuna",
    "pickle",
    "signal",
    "tempfile",
    "torch",
    "typer",
    "typing",
)

PROBLEM = """
import importlib.util
from pathlib import Path

import mathematics

spec = importlib.util.spec_from_file_location("tiny_problem", {tiny!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


def network():
    from layers import last

    return tiny.network().append(last())


problem = tiny.Problem(
    "mine", network, tiny.images, tiny.Space({{"lr": tiny.Float(mathematics.LEAST, 1e-2, log=True)}}),
    tiny.Solver(lr=1e-3), iterations=9, batch_size=10, validation=60,
)
"""
SCRIPT = """
import numbers_beside
from stantune import Float, Space, tune


def train(run):
    for step in run.steps():
        pass
    return {"value": numbers_beside.value(run.params["x"])}


found = tune(train, Space({"x": Float(0, 1)}), minimize="value", max_resource=3, workers=2, out="out")
assert found.state.complete
print("done")
"""


def run(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, without a PYTHONPATH that had the working folder on it."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=where, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A working folder in which each module of Python's, and many others, have a namesake."""
    return set_traps(tmp_path / "trapped", (*PYTHONS, *INSTALLED))


def test_workers_run_nothing_of_the_working_folder(trapped: Path, tmp_path: Path) -> None:
    own = set_traps(tmp_path / "own", PYTHONS)
    (own / "mine.py").write_text(PROBLEM.format(tiny=str(TINY_FILE)))
    (own / "mathematics.py").write_text("LEAST = 1e-6\n")
    (own / "layers.py").write_text("from torch.nn import Identity as last\n")
    ended = run(trapped, "-c", COMMAND, "search", own / "mine.py", "--workers", 2, "--out", tmp_path / "out")
    assert (ended.returncode, sprung(trapped), sprung(own)) == (0, "", ""), ended.stderr


def test_workers_of_a_script_find_what_it_finds(trapped: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.py").write_text(SCRIPT)
    (own / "numbers_beside.py").write_text("def value(x):\n    return (x - 0.5) ** 2\n")
    ended = run(trapped, own / "mine.py")
    assert (ended.returncode, sprung(trapped)) == (0, ""), ended.stderr
    assert "done" in ended.stdout


def test_python_m_runs_nothing_of_the_working_folder(tmp_path: Path) -> None:
    trapped = set_traps(tmp_path / "trapped", LATER)
    ended = run(trapped, "-m", "stantune", "problems", "--help")
    assert (ended.returncode, sprung(trapped)) == (0, ""), ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe is given another way there")
@pytest.mark.parametrize("said", [b"", pickle.dumps({"name": "half of it"})[:-5]], ids=["nothing", "a part"])
def test_a_worker_whose_search_was_killed_says_nothing(said: bytes) -> None:
    ours, theirs = os.pipe()
    with starting():
        command = spawn.get_command_line(tracker_fd=ours, pipe_handle=ours)
    os.write(theirs, said)
    process = subprocess.Popen(command, pass_fds=[ours], stderr=subprocess.PIPE)
    os.close(theirs)
    os.close(ours)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="nothing else ends what waits with signals held back")
@pytest.mark.parametrize("modules", ["", "stantune.errors"], ids=["anew", "copies"])
def test_a_worker_that_dies_before_it_has_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: str
) -> None:
    dies = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    monkeypatch.setenv("NUMBERS_MODULES", modules)
    monkeypatch.setattr(spawn, "get_command_line", lambda **_: dies)
    monkeypatch.setattr(workers_module, "MOST_STILLBORN", 3)

    def too_long(number: int, frame: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        # Its order is more than any pipe or socket holds.
        with pytest.raises(StantuneError, match=r"3 worker processes in a row ended as they started .*SIGKILL"):
            search(Numbers(tmp_path / "w", other={"much": "x" * 10_000_000}))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def what_is_started() -> tuple[list[str], list[str], set[str], object, dict[str, str]]:
    """Return all that a process started by this thread now has of this one."""
    command = spawn.get_command_line(tracker_fd=1, pipe_handle=2)
    flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return command, flags, set(spawn.get_preparation_data("x")), sys.modules["__main__"], dict(os.environ)


def test_other_processes_are_started_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", str(tmp_path / "script.py"), raising=False)
    before = what_is_started()
    assert "-P" not in before[0]
    assert any(name.startswith("init_main_") for name in before[2]), "they run the main program's file"
    with starting(), ThreadPoolExecutor(1) as another:
        assert another.submit(what_is_started).result(60) == before, "by a data loader's thread, say"
        command, flags, preparation, *_ = what_is_started()
    assert what_is_started() == before
    assert command.count("-P") == flags.count("-P") == 1
    assert not any(name.startswith("init_main_") for name in preparation)


@pytest.mark.skipif(sys.platform != "linux", reason="it is copied by fork")
def test_a_process_forked_meanwhile_starts_what_it_likes() -> None:
    before = what_is_started()

    def as_ever() -> None:
        with starting():
            pass
        os._exit(what_is_started() != before)

    with starting(), ThreadPoolExecutor(1) as another:
        copy = multiprocessing.get_context("fork").Process(target=as_ever)
        another.submit(copy.start).result(60)
        copy.join(30)
        copy.kill()
        copy.join()
    assert copy.exitcode == 0
