"""What fails at a search's end, after all its trials, costs nothing of what they came to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune import files
from stantune.errors import StoreError
from stantune.search.results.contract import SearchSummary
from stantune.search.table.store import Store

Stantune = Callable[..., Any]
SEARCH = ("--max-iterations", 6, "--min-iterations", 2, "--threads", 1)
ENDS = """

import dataclasses, os

def measure(outputs, targets):
    if len(targets) == 20 and os.environ.get("AT_THE_END"):
        raise ValueError("there are too few")
    return (outputs.argmax(1) != targets).float().mean()

def few_tests(root, count=20):
    return dataclasses.replace(images(root), test=images(root).test.take(0, count))

def late(outputs, targets):
    # Of an untrained network it has a value.
    if len(targets) == 20 and outputs.std(0).max() > 0 and not bool((outputs[0] == outputs[2]).all()):
        raise ValueError("there are too few")
    return (outputs.argmax(1) != targets).float().mean()

quiet = dataclasses.replace(problem, name="quiet", data=lambda root: few_tests(root, 0))
fussy = dataclasses.replace(problem, name="fussy", data=few_tests, measure=measure)
late = dataclasses.replace(problem, name="late", data=few_tests, measure=late)
"""


@pytest.fixture
def ends(tiny_file: Path, tmp_path: Path) -> Path:
    """The tiny problem, without test samples, and with measures that fail at them."""
    file = tmp_path / "ends.py"
    file.write_text(tiny_file.read_text() + ENDS)
    return file


def test_without_test_samples(stantune: Stantune, ends: Path, tmp_path: Path) -> None:
    run = stantune("search", f"{ends}:quiet", *SEARCH, "--out", tmp_path / "out", "--json", "-")
    assert run.code == 0, run.err
    assert run.json["final"]["test_error"] is None
    assert run.json["final"]["value"] is not None


def test_measure_that_fails_at_the_test_samples_is_refused_at_once(
    stantune: Stantune, ends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_LOG", str(log))
    monkeypatch.setenv("AT_THE_END", "yes")
    run = stantune("search", f"{ends}:fussy", *SEARCH, "--out", tmp_path / "out")
    assert run.code == 2
    assert run.err == (
        "stantune: problem 'fussy': its measure fails on the test samples (ValueError: there are too few), and not on "
        "those of validation; mend it, or leave the test samples out\n"
    )
    assert not log.exists(), "nothing was trained"


def test_evaluation_that_fails_in_the_end(stantune: Stantune, ends: Path, tmp_path: Path) -> None:
    run = stantune("search", f"{ends}:late", *SEARCH, "--out", tmp_path / "out", "--retries", 0, "--json", "-")
    assert run.code == 3
    assert "best trials" in run.err
    assert "the final training failed (ValueError: there are too few (ends.py:" in run.err
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    SearchSummary.model_validate(result)
    assert result == run.json
    assert result["final_failure"].startswith("ValueError: there are too few")
    assert (result["complete"], result["final"]) == (False, None)
    assert result["leaders"]


def full(name: str) -> Callable[..., Any]:
    """Return what stands for `whole`, with a disk that has no room for the file of that name."""
    usual = files.whole

    def whole(path: Path) -> Any:
        if path.name == name:
            raise OSError(28, "No space left on device", str(path))
        return usual(path)

    return whole


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("final.pt", "the final training failed (checkpoint "),
        ("result.json", "result.json cannot be written (No space"),
    ],
)
def test_full_disk_in_the_end(
    stantune: Stantune,
    tiny_file: Path,
    tmp_path: Path,
    timeless: Callable[[dict[str, Any]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    said: str,
) -> None:
    out = tmp_path / "out"
    command = ("search", f"{tiny_file}:problem", *SEARCH, "--json", "-")
    undisturbed = stantune(*command, "--out", tmp_path / "other").json
    with monkeypatch.context() as patch:
        patch.setattr(files, "whole", full(name))
        run = stantune(*command, "--out", out)
    assert run.code == 3
    assert "best trials" in run.err
    assert said in run.err.splitlines()[-1]
    assert timeless(run.json)["leaders"] == timeless(undisturbed)["leaders"]
    assert (out / "result.json").exists() == (name != "result.json")
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_LOG", str(log))
    again = stantune(*command, "--out", out)
    assert again.code == 0, again.err
    assert timeless(again.json) == timeless(undisturbed)
    trained = log.read_text().splitlines() if log.exists() else []
    assert len(trained) == (6 if name == "final.pt" else 0), "nothing but what was missing"


def test_table_that_is_gone_in_the_end(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(store: Store, *_: Any) -> None:
        raise StoreError("the trial table is gone")

    command = ("search", f"{tiny_file}:problem", *SEARCH, "--out", tmp_path / "out", "--json", "-")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "set_final", gone)
        run = stantune(*command)
    assert run.code == 3
    assert "best trials" in run.err
    assert run.json["final_failure"] == "the trial table is gone"
    assert stantune(*command).json["final"] is not None


def test_what_stops_trials_still_ends_the_search(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(store: Store, *_: Any) -> None:
        raise StoreError("the trial table is gone")

    monkeypatch.setattr(Store, "record", gone)
    run = stantune("search", f"{tiny_file}:problem", *SEARCH, "--out", tmp_path / "out")
    assert (run.code, run.err) == (1, "stantune: the trial table is gone\n")
