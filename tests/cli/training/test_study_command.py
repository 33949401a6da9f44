"""`stantune study`: its table, JSON and page, where it stands, real kills, budgets and what cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stantune.compare.study.contract import StudySummary
from stantune.compare.study.folder import asked_to_stop, locked
from stantune.parameters import Float, Integer
from stantune.search.directory.directory import SearchDirectory
from stantune.search.table.looking.look import Seen, look
from stantune.space import Space

Stantune = Callable[..., Any]
HELPERS = Path(__file__).parents[2] / "helpers"
SIZES = ("--max-iterations", "1/10", "--min-iterations", "3")
CAFFE, SOLVER = (
    str(Path(__file__).parents[3] / "examples" / "caffe" / f"lenet_{file}.prototxt")
    for file in ("train_test", "solver")
)
SEARCHES = ("none", "native")


def problem(place: Path, **others: Any) -> str:
    """Write a file with an objective, and return its name for the command."""
    given = "".join(f", {name}={value!r}" for name, value in others.items())
    text = f"""
import pathlib
from timed_objective import Timed
from stantune import Float, Integer, Space, Stan
timed = Timed(pathlib.Path({str(place / "log")!r}), stan=Stan(rate=1){given})
"""
    (place / "mine.py").write_text(text)
    return f"{place / 'mine.py'}:timed"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was killed in its second search."""
    place = tmp_path_factory.mktemp("killed")
    name = problem(place, kills=(1.0, 3), space=Space({"x": Float(0.1, 1.0), "y": Integer(1, 9)}))
    arguments = ["study", name, "--ways", "none,native", "--seeds", "1", "--set", "y=3", *SIZES]
    done = subprocess.run(
        [sys.executable, "-m", "stantune", *arguments, "--out", place / "out"],
        env={**os.environ, "PYTHONPATH": str(HELPERS)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return place


def test_a_line_for_each_search_while_it_is_watched(
    killed: Path, stantune: Stantune, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, slept = killed / "out", list[float]()
    with ExitStack() as runs:
        runs.enter_context(locked(out))

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 2:
                runs.close()

        monkeypatch.setattr("stantune.cli.operating.status.time", SimpleNamespace(sleep=sleep))
        watched = stantune("status", out, "--watch")
    assert (watched.code, slept) == (0, [60, 60])
    lines = watched.out.splitlines()
    assert lines[0].startswith("timed, none, seed 0: done, ")
    assert "5 trials, 0 diverged; best validation error " in lines[0]
    assert "; after the final training validation error " in lines[0]
    assert lines[1].startswith("timed, native, seed 0: interrupted, ")
    # Nothing has changed, so nothing is said again; then it has ended, and its tables are shown.
    assert lines[2].startswith("timed: R = 9 iterations")
    assert stantune("status", out, "--watch").out.splitlines() == lines[2:]
    assert "--storage is of one search" in stantune("status", out, "--storage", "sqlite:///x.db").err


def test_no_table_of_a_search_that_is_done_is_read_again_and_again(
    killed: Path, stantune: Stantune, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, reads, by_then = killed / "out", Counter[str](), list[tuple[int, int]]()
    none, native = "timed-none-seed-0", "timed-native-seed-0"
    with ExitStack() as runs:
        runs.enter_context(locked(out))
        again = ExitStack()

        def noted(directory: Path) -> Seen:
            reads[directory.name] += 1
            return look(directory)

        def sleep(seconds: float) -> None:
            by_then.append((reads[none], reads[native]))
            if len(by_then) == 1:
                # More brackets, say.
                again.enter_context(SearchDirectory(out / none).locked())
            else:
                again.close()
                runs.close()

        monkeypatch.setattr("stantune.compare.study.folder.look", noted)
        monkeypatch.setattr("stantune.cli.operating.status.time", SimpleNamespace(sleep=sleep))
        watched = stantune("status", out, "--watch")
    # While it is gone on with, its table is read, and again where more is told of what runs.
    assert by_then == [(0, 1), (2, 2)]
    assert "timed, none, seed 0: running, " in watched.out
    assert reads[none] == 3, "its tables are shown in the end"


def test_a_study_is_asked_to_end_also_between_two_searches(
    killed: Path, stantune: Stantune, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = killed / "out", list[bool]()
    assert "--storage is of one search" in stantune("stop", out, "--storage", "sqlite:///x.db").err
    with ExitStack() as runs:
        runs.enter_context(locked(out))

        def sleep(seconds: float) -> None:
            asked.append(asked_to_stop(out))
            runs.close()

        monkeypatch.setattr("stantune.cli.operating.stop.time", SimpleNamespace(sleep=sleep))
        stopped = stantune("stop", out)
    assert (stopped.code, asked) == (0, [True])
    said = stopped.out.splitlines()
    assert said[0] == f"asked the study in {out} to end; waiting"
    assert said[1:] == stantune("status", out).out.splitlines()
    assert not asked_to_stop(out), "it was not seen, and is taken back"


def test_a_study_that_was_killed_goes_on(killed: Path, stantune: Stantune) -> None:
    out = killed / "out"
    before = stantune("status", out, "--json", "-")
    summary = StudySummary.model_validate(before.json)
    assert [search.state for search in summary.searches] == ["done", "interrupted"]
    assert summary.searches[1].trials == 4
    assert "1 of 2 searches are done; the same command goes on from here" in before.err
    idle = stantune("stop", out, "--json", "-")
    assert (idle.code, idle.json) == (0, before.json)
    assert idle.err.startswith(f"no study is running in {out}")
    lines = (killed / "log").read_text()
    given = (f"{killed / 'mine.py'}:timed", "--ways", "none,native", "--seeds", 1, "--set", "y=3", *SIZES)
    run = stantune("study", *given, "--out", out)
    assert (run.code, run.err) == (0, "")
    assert "search 1 of 2" not in run.out
    assert "search 2 of 2: timed, native, seed 0" in run.out
    assert "timed, native, seed 0: done, " in run.out
    assert "timed, none, seed 0: done, " not in run.out
    assert all(look(out / f"timed-{way}-seed-0").identity["fixed"] == {"y": 3} for way in SEARCHES)
    assert "2 of 2 searches are done" in run.out
    assert f"the report is in {out / 'report.html'}" in run.out
    # What was in flight is trained again, and nothing else.
    [cut] = lines.splitlines()[-1:]
    trained = Counter((killed / "log").read_text().splitlines())
    assert {line for line, times in trained.items() if times > 1} == {cut}
    page = (out / "report.html").read_text()
    assert '<section id="study"><h1>A study</h1>' in page
    assert "timed-native-seed-0" in page
    assert [line.split()[0] for line in run.out.splitlines() if line.strip().startswith(SEARCHES)][:2] == list(SEARCHES)
    listed = stantune("list", out, "--json", "-").json
    assert {found["directory"] for found in listed["searches"]} == {
        str(out / f"timed-{way}-seed-0") for way in SEARCHES
    }


def test_what_is_missing_is_told_by_the_exit_code(tmp_path: Path, stantune: Stantune) -> None:
    name = problem(tmp_path, broken=1.0)
    given = ("study", name, "--ways", "none,native", "--seeds", 1, *SIZES, "--out", tmp_path / "out")
    spent = stantune(*given, "--budget", "0.000001s")
    assert spent.code == 0
    assert "the budget of 0.0 s is spent; nothing is lost, the same command goes on from here" in spent.err
    assert not (tmp_path / "log").exists()
    failed = stantune(*given, "--json", "-")
    assert failed.code == 3
    assert "timed, native, seed 0, failed: " in failed.err
    assert "there is no more room on the disk" in failed.err
    assert StudySummary.model_validate(failed.json).searches[0].state == "done"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lenet", "--ways", "never"), "--ways never is no way of training"),
        (("lenet", "--max-iterations", "x"), "--max-iterations 'x' is no length"),
        (("lenet", "--max-iterations", "30", "--final-iterations", "9"), "--final-iterations 9 is less than"),
        (("lenett",), "no problem is called 'lenett'"),
        (("lenet", "lenet"), "two problems are called lenet and lenet"),
        (("lenet", "--brackets", "none"), "--brackets none is neither all nor a number"),
        (("mlp", "--ways", "meprop:160"), "top_k"),
        (("lenet", "--ways", "native,stan@conv9"), "conv9"),
        (("lenet", "cq", "--set", "momentun=0.5"), "there is no parameter 'momentun': the space has lr, "),
        (("lenet", "cq", "--set", "momentum"), "--set momentum is no assignment"),
        (("lenet", "cq", "--set", "momentum=2"), "momentum is 2.0, outside its range"),
        (("lenet", "--set", "lr=1", "--set", "lr=2"), "--set lr=2 gives lr a second time"),
        (("mlp", "--ways", "none,meprop:40", "--set", "top_k=40"), "--set holds top_k of mlp at 40, and the ways say"),
        (("lenet", "--dataset", "mnist"), "--dataset mnist is for Caffe's files, and lenet is none"),
        (("lenet", CAFFE, "--dataset", "mnist"), "and --solver is missing"),
        ((CAFFE, CAFFE, "--solver", SOLVER, "--dataset", "mnist"), "two problems are called lenet_train_test and"),
        (
            (CAFFE, "lenet", "--solver", SOLVER, "--dataset", "mnist", "--dataset", "mnist"),
            "--dataset is given 2 times, and there are 1 of Caffe's networks",
        ),
    ],
)
def test_what_cannot_be(tmp_path: Path, stantune: Stantune, arguments: tuple[str, ...], words: str) -> None:
    run = stantune("study", *arguments, "--out", tmp_path / "out")
    assert run.code == 2
    assert words in run.err
    assert not (tmp_path / "out").exists()


def test_data_of_what_has_its_own_are_refused(tmp_path: Path, stantune: Stantune) -> None:
    given = ("--ways", "none", "--budget", "0.000001s", *SIZES, "--data", tmp_path, "--out", tmp_path / "out")
    run = stantune("study", problem(tmp_path), *given)
    words = "stantune: --data says how a Problem is trained, and timed says that itself; leave it away\n"
    assert (run.code, run.err) == (2, words)
    assert not (tmp_path / "out").exists()
    # One problem among others has them.
    assert stantune("study", problem(tmp_path), "lenet", *given).code == 0


def test_caffe_s_files_and_what_only_some_problems_have(tmp_path: Path, stantune: Stantune) -> None:
    out = tmp_path / "out"
    caffe = ("--solver", SOLVER, "--dataset", "mnist", "--batch-size", "50")
    held = ("--set", "momentum=0.9", "--set", "lr=1e-2", "--set", "fc1_l2=0.1")
    run = stantune("study", "cq", CAFFE, *caffe, *held, "--budget", "0.000001s", "--out", out, "--json", "-")
    assert run.code == 0, run.err
    assert [(one["name"], one["source"]) for one in run.json["problems"]] == [("cq", "cq"), ("lenet_train_test", None)]
