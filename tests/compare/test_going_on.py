"""A comparison that was cut goes on, and trains nothing again that is in its directory."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from earlier_code import noted_as_before
from kept_locks import keep_locks
from torch import nn

from stantune.compare.comparison import Comparison
from stantune.compare.records import Records, timed_on
from stantune.compare.turns import TURN
from stantune.errors import StantuneError, UsageError
from stantune.files import _part_of, write_whole
from stantune.training import checkpoint

# Earlier versions did not see such a statement.
CLASSES, (INPUTS,) = 3, (256,)


class Stop:
    """Asks for the end after so many questions."""

    def __init__(self, after: float) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.usefixtures("errors_are_digests")
def test_what_is_finished_is_not_trained_again(bench: Any, turns: list[tuple[float, int, int]], tmp_path: Path) -> None:
    stans = {"0.5": bench.stans["0.5"]}
    whole = bench.compared(stans=stans, directory=tmp_path / "whole")
    turns.clear()

    def go(after: float) -> Comparison | None:
        return bench.comparer(stans=stans, directory=tmp_path / "cut", stop_early=Stop(after)).compare(2)

    # 39 questions or fewer for each training, none in the warm-up: the end comes in the second seed.
    assert go(100) is None
    assert sorted(file.name for file in (tmp_path / "cut").glob("*.json")) == ["plans.json", "seed-0.json"]
    first = json.loads((tmp_path / "cut" / "seed-0.json").read_text())
    turns.clear()
    cut = go(math.inf)
    assert cut is not None
    # Those of the warm-up have 4 iterations.
    assert not [stop for _, start, stop in turns if start == 0 and stop > 4], "nothing is begun again"
    assert sum(stop - start for _, start, stop in turns) < 2 * 40, "one seed, and not all of it"
    assert bench.errors(cut.exact) == bench.errors(whole.exact)
    assert bench.errors(cut.arms[0].trainings) == bench.errors(whole.arms[0].trainings)
    assert cut.exact[0].seconds == first["content"]["exact"]["seconds"]
    turns.clear()
    assert go(math.inf) == cut
    assert not turns, "all is there"
    # More seeds are no other comparison.
    more = bench.comparer(stans=stans, directory=tmp_path / "cut").compare(3)
    assert more is not None
    assert more.exact[:2] == cut.exact
    assert [stop for _, start, stop in turns if start == 0].count(TURN) == 2


def test_the_order_of_the_arms_is_no_other_comparison(bench: Any, tmp_path: Path) -> None:
    both = bench.compared(seeds=1, directory=tmp_path)
    turned = bench.compared(seeds=1, directory=tmp_path, stans=dict(reversed(bench.stans.items())))
    assert [arm.name for arm in turned.arms] == ["0.25", "0.5"]
    assert turned == replace(both, arms=both.arms[::-1])


@pytest.mark.usefixtures("own_clock")
def test_equal_time_goes_on_too(bench: Any, tmp_path: Path) -> None:
    stans = {"0.5": bench.stans["0.5"]}
    before = bench.compared(stans=stans, directory=tmp_path)
    assert bench.comparer(stans=stans, directory=tmp_path, stop_early=Stop(40)).compare(2, True) is None
    kept = {"plans.json", "seed-0.json", "seed-1.json", "exact-27-of-40-seed-0.json"}
    assert {file.name for file in tmp_path.glob("*.json")} == kept
    titles: list[tuple[str, int]] = []

    @contextmanager
    def progress(title: str, iterations: int) -> Iterator[Callable[[int], None]]:
        titles.append((title, iterations))
        yield lambda done: None

    after = bench.compared(stans=stans, directory=tmp_path, equal_time=True, progress=progress)
    assert titles == [("seed 1: exact, as long as 0.5", 27)]
    assert after.exact == before.exact
    assert after.arms[0].equal_time is not None
    assert len(after.arms[0].equal_time.trainings) == 2


def test_what_was_being_written_is_deleted_and_nothing_of_others(bench: Any, tmp_path: Path) -> None:
    stans = {"0.5": bench.stans["0.5"]}
    bench.compared(stans=stans, directory=tmp_path, seeds=1, equal_time=True)
    names = [file.name for file in tmp_path.glob("*.json")]
    assert len(names) == 3
    ours = [_part_of(tmp_path / name) for name in (*names, "seed-0-exact.pt", "seed-12-0.5.pt")]
    others = [tmp_path / ".backup.tar.part", _part_of(tmp_path / "backup.tar"), tmp_path / ".seed-0.json.part"]
    for part in (*ours, *others):
        part.write_bytes(b"half of it")
    bench.compared(stans=stans, directory=tmp_path, seeds=1)
    assert {*tmp_path.glob(".*.part")} == {*others}


def weights(directory: Path) -> set[str]:
    """Return the names of the trainings that are under way."""
    return {file.name for file in directory.glob("*.pt")}


@pytest.mark.usefixtures("errors_are_digests")
@pytest.mark.parametrize("after", [10, 30, 60, 90, 110])
def test_a_seed_that_was_cut_goes_on_in_its_middle(
    bench: Any, turns: list[tuple[float, int, int]], tmp_path: Path, after: int
) -> None:
    whole = bench.compared(seeds=1)
    turns.clear()
    assert bench.comparer(directory=tmp_path, stop_early=Stop(after)).compare(1) is None
    assert weights(tmp_path) == {"seed-0-exact.pt", "seed-0-0.5.pt", "seed-0-0.25.pt"}
    # Those of the warm-up have 4 iterations.
    trained = sum(stop - start for _, start, stop in turns if stop > 4)
    turns.clear()
    cut = bench.compared(seeds=1, directory=tmp_path)
    assert sum(stop - start for _, start, stop in turns if stop > 4) + trained == 3 * 40
    assert bench.errors(cut.exact) == bench.errors(whole.exact)
    for mine, theirs in zip(cut.arms, whole.arms, strict=True):
        assert bench.errors(mine.trainings) == bench.errors(theirs.trainings)
        assert [one.kept for one in mine.trainings] == [one.kept for one in theirs.trainings]
    assert weights(tmp_path) == set(), "what they led to is in the record"


def test_trainings_are_kept_until_their_record_is_written(
    bench: Any, turns: list[tuple[float, int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, content: bytes) -> None:
        if file.name == "seed-0.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_whole(file, content)

    with monkeypatch.context() as patched:
        patched.setattr("stantune.compare.records.write_whole", full)
        with pytest.raises(StantuneError, match=r"seed-0\.json cannot be written .* make room"):
            bench.comparer(directory=tmp_path).compare(1)
    assert weights(tmp_path) == {"seed-0-exact.pt", "seed-0-0.5.pt", "seed-0-0.25.pt"}
    turns.clear()
    bench.compared(seeds=1, directory=tmp_path)
    # Those of the warm-up have 4 iterations.
    assert not [stop for _, _, stop in turns if stop > 4], "all were trained to their ends"
    assert weights(tmp_path) == set()


@pytest.mark.usefixtures("errors_are_digests")
def test_what_python_and_numpy_draw_goes_on_there_too(drawing: Any, tmp_path: Path) -> None:
    whole = drawing.compared(seeds=1)
    assert drawing.comparer(directory=tmp_path, stop_early=Stop(60)).compare(1) is None
    cut = drawing.compared(seeds=1, directory=tmp_path)
    assert drawing.errors(cut.exact) == drawing.errors(whole.exact)
    for mine, theirs in zip(cut.arms, whole.arms, strict=True):
        assert drawing.errors(mine.trainings) == drawing.errors(theirs.trainings)


@pytest.mark.usefixtures("errors_are_digests")
def test_trainings_of_before_that_kept_no_such_states_are_gone_on_with(bench: Any, tmp_path: Path) -> None:
    whole = bench.compared(seeds=1)
    assert bench.comparer(directory=tmp_path, stop_early=Stop(60)).compare(1) is None
    for file in tmp_path.glob("*.pt"):
        saved = torch.load(file, weights_only=True)
        del saved["state"]["random_others"]
        checkpoint.save(file, saved["identity"], saved["state"])
    cut = bench.compared(seeds=1, directory=tmp_path)
    assert bench.errors(cut.exact) == bench.errors(whole.exact)


def test_records_of_another_machine_are_told_once(bench: Any, tmp_path: Path) -> None:
    lines: list[str] = []

    def compared(seeds: int) -> Comparison:
        lines.clear()
        found: Comparison = bench.compared(seeds, iterations=5, directory=tmp_path, say=lines.append)
        return found

    def written(name: str, machine: dict[str, str] | None) -> None:
        file = tmp_path / f"{name}.json"
        record = json.loads(file.read_text())
        here = record.pop("machine")
        assert here == timed_on("cpu")
        file.write_text(json.dumps(record if machine is None else {**record, "machine": {**here, **machine}}))

    before = compared(2)
    assert not lines
    written("seed-0", {"processor": "Elsewhere 9000"})
    written("seed-1", {"kernels": "none at all"})
    assert compared(2) == before
    (line,) = lines
    assert "seed-0.json is of another machine (processor is Elsewhere 9000 there and " in line
    # Those of before tell nothing of a machine.
    for name in ("seed-0", "seed-1"):
        (tmp_path / f"{name}.json").unlink()
    before = compared(1)
    written("seed-0", None)
    assert compared(1) == before
    assert not lines


# Run in a process of its own: each training is kept after each of its turns, and the process is killed in its middle.
KILLED = """
import os, signal, sys
from stantune.cli import main
from stantune.compare import turns

turns.SAVE_SECONDS = 0
kept, times = turns.UnderWay.keep, 0

def keep(*arguments):
    global times
    kept(*arguments)
    times += 1
    if times == int(os.environ.get("KILL_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)

turns.UnderWay.keep = keep
sys.argv = ["stantune", *sys.argv[1:]]
main()
"""


def test_killed_in_the_middle_of_a_seed(tmp_path: Path) -> None:
    tiny = Path(__file__).parents[1] / "tiny_problem.py"
    options = ("--iterations", "120", "--seeds", "1", "--threads", "1", "--set", "lr=2e-4", "--json", "-")
    log, out = tmp_path / "log", tmp_path / "out"

    def command(*more: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-c", KILLED, "compare", f"{tiny}:problem", *options, *more]
        return subprocess.run(words, env=os.environ | environment, capture_output=True, timeout=120)

    # After a round of 25 iterations each, and another one, of which one of the two is kept.
    killed = command("--out", str(out), KILL_AT="3")
    assert killed.returncode == -signal.SIGKILL
    assert weights(out) == {"seed-0-exact.pt", "seed-0-0.5.pt"}
    ended = command("--out", str(out), TINY_LOG=str(log))
    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in log.read_text().splitlines()]
    # The numbers of iterations are kept with the weights: 4 of a warm-up, and the rest of what was begun.
    assert sorted(int(last) for _, _, last in lines if int(last) > 4) == sorted([*range(51, 121), *range(26, 121)])
    other = command()
    for arm in ("exact", "stan"):
        assert json.loads(ended.stdout)[arm]["test_error"] == json.loads(other.stdout)[arm]["test_error"]


def test_another_network_is_another_comparison(bench: Any, tmp_path: Path) -> None:
    bench.compared(seeds=1, directory=tmp_path)
    other = replace(bench.problem, network=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(UsageError, match=r"made-of\.network is .* there and .* here"):
        bench.comparer(problem=other, directory=tmp_path).compare(1)


def test_records_that_an_earlier_version_noted_otherwise_are_gone_on_with(bench: Any, tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(INPUTS, CLASSES))

    problem = replace(bench.problem, network=network)
    with noted_as_before():
        before = bench.compared(seeds=1, directory=tmp_path, problem=problem)
    assert bench.compared(seeds=1, directory=tmp_path, problem=problem) == before
    assert len(bench.compared(seeds=2, directory=tmp_path, problem=problem).exact) == 2


def test_records_that_do_not_tell_of_the_network_are_gone_on_with(bench: Any, tmp_path: Path) -> None:
    before = bench.compared(seeds=1, directory=tmp_path)
    for file in tmp_path.glob("*.json"):
        record = json.loads(file.read_text())
        del record["identity"]["made-of"]
        file.write_text(json.dumps(record))
    assert bench.compared(seeds=1, directory=tmp_path) == before


def test_another_thread_may_close_what_one_has_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_locks(monkeypatch, "stantune.compare.records")
    for _ in range(2):
        opened = Records(tmp_path, {}).locked()
        with ThreadPoolExecutor(1) as one:
            one.submit(opened.__enter__).result(60)
        with ThreadPoolExecutor(1) as another:
            another.submit(opened.__exit__, None, None, None).result(60)
