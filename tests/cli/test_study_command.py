"""`stantune study`: its table, JSON and page, where it stands, real kills, budgets and what cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.compare.study.contract import StudySummary

Stantune = Callable[..., Any]
HELPERS = Path(__file__).parents[1] / "helpers"
SIZES = ("--max-iterations", "1/10", "--min-iterations", "3")
SEARCHES = ("none", "native")


def problem(place: Path, **others: Any) -> str:
    """Write a file with an objective, and return its name for the command."""
    given = "".join(f", {name}={value!r}" for name, value in others.items())
    text = f"""
import pathlib
from timed_objective import Timed
from stantune import Stan
timed = Timed(pathlib.Path({str(place / "log")!r}), stan=Stan(rate=1){given})
"""
    (place / "mine.py").write_text(text)
    return f"{place / 'mine.py'}:timed"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was killed in its second search."""
    place = tmp_path_factory.mktemp("killed")
    arguments = ["study", problem(place, kills=(1.0, 3)), "--ways", "none,native", "--seeds", "1", *SIZES]
    done = subprocess.run(
        [sys.executable, "-m", "stantune", *arguments, "--out", place / "out"],
        env={**os.environ, "PYTHONPATH": str(HELPERS)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return place


def test_a_study_that_was_killed_goes_on(killed: Path, stantune: Stantune) -> None:
    out = killed / "out"
    before = stantune("status", out, "--json", "-")
    summary = StudySummary.model_validate(before.json)
    assert [search.state for search in summary.searches] == ["done", "interrupted"]
    assert summary.searches[1].trials == 4
    assert "1 of 2 searches are done; the same command goes on from here" in before.err
    refused = stantune("status", out, "--watch")
    assert refused.code == 2
    assert f"no search of the study in {out} is running" in refused.err
    assert stantune("stop", out).code == 2
    lines = (killed / "log").read_text()
    run = stantune("study", f"{killed / 'mine.py'}:timed", "--ways", "none,native", "--seeds", 1, *SIZES, "--out", out)
    assert (run.code, run.err) == (0, "")
    assert "search 1 of 2" not in run.out
    assert "search 2 of 2: timed, native, seed 0" in run.out
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
    ],
)
def test_what_cannot_be(tmp_path: Path, stantune: Stantune, arguments: tuple[str, ...], words: str) -> None:
    run = stantune("study", *arguments, "--out", tmp_path / "out")
    assert run.code == 2
    assert words in run.err
    assert not (tmp_path / "out").exists()
