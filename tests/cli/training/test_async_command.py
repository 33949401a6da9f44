"""`stantune search --mode async` and its plan, run for real: killed, with its table in a journal, it ends the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.search.results.contract import SearchSummary

Stantune = Callable[..., Any]
Timeless = Callable[[dict[str, Any]], dict[str, Any]]
KILLED_COMMAND = Path(__file__).parents[2] / "helpers" / "search" / "killed_command.py"
LENGTH = ("--max-iterations", "27", "--min-iterations", "3")
ASYNC = (*LENGTH, "--mode", "async", "--trials", "14", "--lag", "4", "--sampler", "tpe")


@pytest.fixture(scope="module")
def undisturbed(stantune: Stantune, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("async") / "out"
    run = stantune("search", f"{tiny_file}:problem", *ASYNC, "--threads", 1, "--out", out, "--json", "-")
    assert run.code == 0
    result: dict[str, Any] = run.json
    return result


def test_json(undisturbed: dict[str, Any]) -> None:
    result = SearchSummary.model_validate(undisturbed)
    assert (result.mode, result.complete, result.accelerate) == ("async", True, "stan")
    (bracket,) = result.brackets
    assert [(rung.iterations, rung.trials) for rung in bracket.rungs] == [(3, 14), (9, 4), (27, 1)]
    counts = result.counts
    assert (counts.trials, counts.promoted) == (14, 4)
    assert counts.dropped + counts.diverged in (13, 14)
    assert result.final is not None
    assert result.final.iterations == 27
    assert result.saved.early_stopping > 0
    assert result.saved.continuing > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
@pytest.mark.parametrize("journal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_again_and_again(
    undisturbed: dict[str, Any], timeless: Timeless, tiny_file: Path, tmp_path: Path, journal: bool
) -> None:
    log, target = tmp_path / "log", tmp_path / "result.json"
    command = ["search", f"{tiny_file}:problem", *ASYNC, "--threads", "1", "--out", tmp_path / "out", "--json", target]
    if journal:
        command += ["--storage", f"journal:///{tmp_path / 'table.log'}"]
    done = subprocess.run(
        [sys.executable, str(KILLED_COMMAND), log, "1", "1", "60", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed") >= 3
    assert timeless(json.loads(target.read_text())) == timeless(undisturbed)


def test_plan(stantune: Stantune, tiny_file: Path) -> None:
    run = stantune("brackets", f"{tiny_file}:problem", *LENGTH, "--mode", "async", "--threads", 1, "--json", "-")
    assert run.code == 0
    assert (run.json["mode"], run.json["trials"]) == ("async", 27)
    assert [rung["trials"] for rung in run.json["brackets"][0]["rungs"]] == [27, 9, 3]
    assert run.json["estimated_seconds"] > 0
    assert "tiny, asynchronous, eta 3" in run.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--mode", "fast"), "--mode fast is unknown; give sync or async"),
        (("--trials", "30"), "--trials 30 is for --mode async"),
        (("--mode", "async", "--brackets", "1"), "--brackets 1 is for Hyperband"),
        (("--mode", "async", "--trials", "3"), "--trials 3 is too few: one of 9 gets to 60 iterations"),
    ],
)
def test_bad_use(
    stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    run = stantune("search", *tiny, *options, "--out", tmp_path / "out")
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith(f"stantune: {sentence}")
    assert not (tmp_path / "out").exists()


def test_more_workers_than_the_lag_has_work_for(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    many = ("--mode", "async", "--lag", 2, "--workers", 3, "--out", tmp_path, "--budget", "0s")
    run = stantune("search", *tiny, *many)
    assert "note: an asynchronous search with --lag 2 has work for 2 workers at most, and here are 3" in run.out
