"""`stantune search` really killed (SIGKILL) at many moments ends as the undisturbed one; nothing is trained twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")

SCRIPT = Path(__file__).with_name("killed_command.py")
TINY_FILE = Path(__file__).parents[1] / "tiny_problem.py"
# Brackets by their number of trials: what each of their rungs trains up to.
BRACKETS = {9: (3, 9, 27), 5: (9, 27), 3: (27,)}
FINAL = 27
START_UPS = 4
MOST_ITERATIONS = 32


class Line(NamedTuple):
    """An iteration that was trained: by which process, of which training."""

    process: int
    training: int
    iteration: int


class Ended(NamedTuple):
    """A search that got to its end: its JSON, the iterations in the order they were trained, and its processes."""

    result: dict[str, Any]
    lines: list[Line]
    processes: dict[int, str]


def search(place: Path, most: int) -> Ended:
    """Run the tiny search to its end, killed after at most so many iterations again and again; never for 0."""
    place.mkdir()
    log, result = place / "log", place / "result.json"
    length = ("--max-iterations", "27", "--min-iterations", "3")
    command = ("search", f"{TINY_FILE}:problem", *length, "--threads", "1", "--out", place / "out", "--json", result)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), log, "0", str(START_UPS), str(most), *command],
        env={**os.environ, "TINY_LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    processes = dict(line.split() for line in done.stdout.splitlines())
    timeless = {key: value for key, value in json.loads(result.read_text()).items() if key not in ("seconds", "saved")}
    return Ended(
        timeless,
        [Line(*map(int, line.split())) for line in log.read_text().splitlines()],
        {int(process): how for process, how in processes.items()},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return search(tmp_path_factory.mktemp("kill") / "undisturbed", 0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return search(tmp_path_factory.mktemp("kill") / "killed", MOST_ITERATIONS)


def test_kills_are_many_and_everywhere(undisturbed: Ended, killed: Ended) -> None:
    assert list(undisturbed.processes.values()) == ["done"]
    *before, last = killed.processes.values()
    assert (set(before), last) == ({"killed"}, "done")
    assert len(before) >= 15
    # The training that each killed process was at, as a place in the undisturbed search.
    order = list(dict.fromkeys(line.training for line in undisturbed.lines))
    at = {line.process: order.index(line.training) for line in killed.lines}
    places = [at[process] for process, how in killed.processes.items() if how == "killed" and process in at]
    assert len(places) < len(before), "some were killed before they trained anything"
    assert min(places) < 9, "in the first bracket"
    assert max(places) >= 14, "in the last one or in the final training"
    assert len(set(places)) >= 6, "in many a trial"


def test_result_is_that_of_the_undisturbed(undisturbed: Ended, killed: Ended) -> None:
    assert undisturbed.result["complete"]
    assert undisturbed.result["counts"]["promoted"] > 0
    assert killed.result == undisturbed.result


def test_same_iterations_are_trained(undisturbed: Ended, killed: Ended) -> None:
    def trained(ended: Ended) -> set[tuple[int, int]]:
        return {(line.training, line.iteration) for line in ended.lines}

    assert len(trained(undisturbed)) == len(undisturbed.lines), "none twice where nothing is killed"
    assert trained(killed) == trained(undisturbed)


def test_nothing_is_trained_twice_but_the_segment_that_was_cut(undisturbed: Ended, killed: Ended) -> None:
    order = list(dict.fromkeys(line.training for line in undisturbed.lines))
    sizes = [size for size in BRACKETS for _ in range(size)]
    stops = {training: BRACKETS[size] for training, size in zip(order, sizes, strict=False)}
    final = order[-1]
    assert len(order) == sum(BRACKETS) + 1
    stops[final] = (FINAL,)

    def segment(line: Line) -> tuple[int, int]:
        return line.training, sum(line.iteration > stop for stop in stops[line.training])

    by_process: dict[int, list[Line]] = {process: [] for process in killed.processes}
    for line in killed.lines:
        by_process[line.process].append(line)
    repeated = 0
    for place, (_, lines) in enumerate(by_process.items()):
        assert max(Counter(lines).values(), default=1) == 1, "a process trains nothing twice"
        later = {
            (line.training, line.iteration) for others in list(by_process.values())[place + 1 :] for line in others
        }
        again = {segment(line) for line in lines if (line.training, line.iteration) in later}
        # The segment in which the process was killed, and no other.
        assert again <= {segment(lines[-1])} if lines else not again
        repeated += bool(again)
    assert repeated >= 3, "too few segments were cut to show anything"
