"""`stantune search` with worker processes, and what becomes of a search whose trials or disk fail, run for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stantune.search.results.contract import SearchSummary
from stantune.search.table.storages import retry

Stantune = Callable[..., Any]
AsWhole = Callable[[dict[str, Any]], None]

FAULTY = """
import importlib.util, time
from pathlib import Path
from stantune import Categorical, Float, Problem, Solver, Space

spec = importlib.util.spec_from_file_location("tiny_problem", TINY)
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

def network(fault="none"):
    if fault == "raise":
        raise ValueError("this cannot be built")
    if fault == "hang":
        time.sleep(1000)
    return tiny.network()

def problem(*faults):
    space = Space({"lr": Float(1e-6, 1e-2, log=True), "fault": Categorical(faults)})
    return Problem("faulty", network, tiny.images, space, Solver(lr=1e-3), iterations=9, batch_size=10, validation=60)

raising, hanging, hopeless = problem("none", "raise"), problem("none", "raise", "hang"), problem("raise")
"""


@pytest.fixture
def faulty_file(tmp_path: Path, tiny_file: Path) -> Path:
    """A file of problems whose network raises or hangs for some settings."""
    file = tmp_path / "faulty_problem.py"
    file.write_text(FAULTY.replace("TINY", repr(str(tiny_file))))
    return file


def test_two_workers_have_the_result_of_none(
    whole: Any, stantune: Stantune, tiny: tuple[str, ...], as_whole: AsWhole, tmp_path: Path
) -> None:
    ended = stantune("search", *tiny, "--workers", 2, "--out", tmp_path, "--json", "-")
    assert ended.code == 0, ended.err
    as_whole(ended.json)
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {
        file.name for file in (whole.directory / "checkpoints").iterdir()
    }


def test_any_number_of_workers_goes_on_with_a_search(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    here = ("search", f"{tiny_file}:problem", "--out", tmp_path, "--budget", 0)
    assert stantune(*here, "--threads", 2).code == 0
    # By itself a search with several workers would have one thread each.
    assert stantune(*here, "--workers", 3).code == 0
    assert stantune(*here).code == 0
    refused = stantune(*here, "--workers", 3, "--threads", 1)
    assert refused.code == 2
    assert "threads: 2 there, 1 here" in refused.err
    assert stantune(*here[:2], "--out", tmp_path / "other", "--budget", 0, "--workers", 3).code == 0
    assert "threads: 1 there, 2 here" in stantune(*here[:2], "--out", tmp_path / "other", "--threads", 2).err


def test_trials_that_raise(stantune: Stantune, faulty_file: Path, tmp_path: Path) -> None:
    here = ("search", f"{faulty_file}:raising", "--min-iterations", 1, "--threads", 1, "--retries", 1)
    ended = stantune(*here, "--out", tmp_path / "out", "--json", "-")
    assert ended.code == 3, "a search never ends silently short"
    result = SearchSummary.model_validate_json(ended.out)
    assert result.complete
    assert result.final is not None
    failed = result.counts.failed
    assert failed == len(result.failures) > 1
    assert result.counts.retries == failed
    for failure in result.failures:
        assert failure.params["fault"] == "raise"
        assert failure.cause.startswith("ValueError: this cannot be built (faulty_problem.py:")
    assert all(leader.params["fault"] == "none" for leader in result.leaders)
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"stantune: {failed} trials have failed for good and the search went on without")
    assert "ValueError: this cannot be built" in last
    assert "Traceback" not in ended.err
    again = stantune(*here, "--out", tmp_path / "out", "--json", "-")
    assert (again.code, again.json) == (3, ended.json), "what failed for good is not tried again"


def test_everything_raises(stantune: Stantune, faulty_file: Path, tmp_path: Path) -> None:
    here = ("search", f"{faulty_file}:hopeless", "--min-iterations", 1, "--threads", 1)
    ended = stantune(*here, "--out", tmp_path / "out")
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("stantune: none of the first 5 trials could be trained")
    assert "ValueError: this cannot be built" in last


def test_trials_that_hang(stantune: Stantune, faulty_file: Path, tmp_path: Path) -> None:
    here = ("search", f"{faulty_file}:hanging", "--min-iterations", 9, "--max-iterations", 9, "--eta", 5)
    few = (*here, "--threads", 1, "--seed", 3, "--retries", 0, "--trial-timeout", "1.5s")
    ended = stantune(*few, "--out", tmp_path / "out", "--json", "-")
    assert ended.code in (0, 3)
    for failure in SearchSummary.model_validate_json(ended.out).failures:
        cause = {"hang": "no iteration and no evaluation was done within 1.5 s", "raise": "ValueError: this cannot"}
        assert failure.cause.startswith(cause[failure.params["fault"]])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workers", 0), "--workers"),
        (("--trial-timeout", "soon"), "no length of time"),
        (("--trial-memory", "much"), "no amount of memory"),
        (("--retries", -1), "--retries"),
    ],
)
def test_bad_values(
    stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    refused = stantune("search", *tiny, "--out", tmp_path, *options)
    assert refused.code == 2
    assert said in refused.err


def test_estimate_for_several_workers(stantune: Stantune, tiny: tuple[str, ...]) -> None:
    seconds = [
        stantune("brackets", *tiny, "--workers", workers, "--json", "-").json["estimated_seconds"] for workers in (1, 3)
    ]
    assert 0 < seconds[1] < seconds[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("file systems may not be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_disk_full_while_a_checkpoint_is_written(
    stantune: Stantune,
    tiny: tuple[str, ...],
    as_whole: AsWhole,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    monkeypatch.setattr(retry, "SECONDS", 0.1)
    # The trial table is elsewhere, so that it is a checkpoint that finds no room.
    here = ("search", *tiny, "--workers", workers, "--out", small_disk / "out")
    here = (*here, "--storage", f"sqlite:///{tmp_path / 'trials.db'}")
    assert stantune(*here, "--budget", 0).code == 0
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (room - 40_000))
    full = stantune(*here)
    assert full.code == 1
    last = full.err.splitlines()[-1]
    assert "No space left on device" in last
    assert "make room" in last
    assert "the same command" in last
    assert not list(small_disk.glob("out/checkpoints/.*.part")), "nothing half-written is left in the way"

    ballast.unlink()
    ended = stantune(*here, "--json", "-")
    assert ended.code == 0, ended.err
    as_whole(ended.json)
    assert ended.json["counts"]["retries"] == 0, "a full disk is no trial's fault"
