"""`stantune search` really killed (SIGKILL) at many moments ends as the undisturbed one; nothing is trained twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stantune.search.directory.directory import SearchDirectory
from stantune.search.plan.values import TrialRow
from stantune.search.table import studies

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")

SCRIPT = Path(__file__).parents[1] / "helpers" / "search" / "killed_command.py"
TINY_FILE = Path(__file__).parents[1] / "tiny_problem.py"
# Brackets by their number of trials: what each of their rungs trains up to.
BRACKETS = {9: (3, 9, 27), 5: (9, 27), 3: (27,)}
FINAL = 27
# Of each search: how many are killed as they start, and after how many iterations at most the others are; 0 for none.
NEVER, OFTEN, SELDOM = (0, 0), (4, 32), (0, 40)
# What one worker would see, so that the models have results enough in so short a search.
SAMPLERS = {"random": (), "tpe": ("--sampler", "tpe", "--lag", "1"), "bohb": ("--sampler", "bohb", "--lag", "1")}


class Line(NamedTuple):
    """An iteration that was trained: by which process, of which training."""

    process: int
    training: int
    iteration: int


class Ended(NamedTuple):
    """A search that got to its end: its JSON and table, the iterations in the order of training, and its processes."""

    result: dict[str, Any]
    rows: list[TrialRow]
    lines: list[Line]
    processes: dict[int, str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    """The searches with settings at random, undisturbed and killed."""
    return _searches(tmp_path_factory.mktemp("kill"), ["random"])


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    """Those with settings that models propose."""
    return _searches(tmp_path_factory.mktemp("kill"), ["tpe", "bohb"])


def _searches(base: Path, samplers: list[str]) -> dict[tuple[str, str], Ended]:
    """Run searches of each sampler, undisturbed and killed: all by one process, which imports everything once."""
    command = [sys.executable, str(SCRIPT)]
    length = ("--max-iterations", "27", "--min-iterations", "3", "--threads", "1")
    places = {}
    for sampler in samplers:
        for how, kills in (("undisturbed", NEVER), ("killed", OFTEN if sampler == "random" else SELDOM)):
            place = places[sampler, how] = base / f"{sampler}-{how}"
            place.mkdir()
            search = ("search", f"{TINY_FILE}:problem", *length, *SAMPLERS[sampler])
            where = ("--out", place / "out", "--json", place / "result.json")
            command += map(str, ("+", place / "log", 0, *kills, *search, *where))
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    return {name: _ended(place, lines) for name, place in places.items()}


def _ended(place: Path, lines: Iterator[str]) -> Ended:
    """Read what a search left, and its children's lines, the last of which is done."""
    processes = {}
    for line in lines:
        process, how = line.split()
        processes[int(process)] = how
        if how == "done":
            break
    result = json.loads((place / "result.json").read_text())
    directory = SearchDirectory(place / "out")
    table = studies.table_of(directory.url, directory.study)
    assert table is not None
    return Ended(
        {key: value for key, value in result.items() if key not in ("seconds", "saved")},
        # What a segment cost is another number each time.
        [replace(row, costs={}) for row in table[1]],
        [Line(*map(int, line.split())) for line in (place / "log").read_text().splitlines()],
        processes,
    )


@pytest.fixture(scope="module")
def undisturbed(ended: dict[tuple[str, str], Ended]) -> Ended:
    return ended["random", "undisturbed"]


@pytest.fixture(scope="module")
def killed(ended: dict[tuple[str, str], Ended]) -> Ended:
    return ended["random", "killed"]


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
    assert killed.rows == undisturbed.rows


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


# The quick sample is test_never_twice.test_cut_at_any_task_and_gone_on_with, whose search is cut without a kill.
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "bohb"])
def test_a_model_proposes_the_same_after_kills(
    undisturbed: Ended, modelled: dict[tuple[str, str], Ended], sampler: str
) -> None:
    alone, disturbed = modelled[sampler, "undisturbed"], modelled[sampler, "killed"]
    drawn = [row.params for row in undisturbed.rows]
    modelled = [row.number for row, params in zip(alone.rows, drawn, strict=True) if row.params != params]
    order = list(dict.fromkeys(line.training for line in alone.lines))
    at = {line.process: order.index(line.training) for line in disturbed.lines}
    places = [at[process] for process, how in disturbed.processes.items() if how == "killed" and process in at]
    assert len(places) >= 3
    assert any(modelled[0] <= place < modelled[-1] for place in places), "a model is made again from the table"
    assert disturbed.result == alone.result
    assert disturbed.rows == alone.rows
