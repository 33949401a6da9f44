"""`--threads auto`: measured once, said in a line, and kept by what goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stantune.images import objective
from stantune.training import threads
from stantune.training.threads import Measured

Stantune = Callable[..., Any]
Machine = list[tuple[int, tuple[bool, ...]]]


@pytest.fixture
def numbers() -> list[str | None]:
    """The precisions that were asked for."""
    return []


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, numbers: list[str | None]) -> Machine:
    """A machine on which two threads are fastest when it is first asked, and three the next time; what was asked."""
    asked: Machine = []

    def measure_threads(
        problem: Any,
        setting: Any,
        splits: Any,
        *,
        natives: tuple[bool, ...],
        device: str,
        precision: str | None = None,
        compile: bool = False,
    ) -> Measured:
        numbers.append(precision)
        chosen = len(asked) + 2
        asked.append((problem.batch_size, tuple(natives)))
        return Measured(chosen, {1: 0.05, chosen: 0.03})

    for module in (threads, objective):
        monkeypatch.setattr(module, "measure_threads", measure_threads)
    return asked


def test_a_training_says_what_it_chose_and_trains_with_it(
    stantune: Stantune, tiny_file: Path, machine: Machine
) -> None:
    here = ("train", f"{tiny_file}:problem", "--iterations", 4, "--threads", "auto", "--json", "-")
    run = stantune(*here)
    assert run.code == 0, run.err
    assert torch.get_num_threads() == 2
    lines = [line for line in run.err.splitlines() if line.startswith("threads: ")]
    assert lines == ["threads: 2 (an iteration takes 30 ms; 50 ms with 1); --threads 2 gives the same result again"]
    assert stantune(*here, "--accelerate", "stan").code == 0
    assert [natives for _, natives in machine] == [(False,), (True,)], "what it will train"


def test_a_training_goes_on_with_the_threads_of_its_checkpoint(
    stantune: Stantune, tiny_file: Path, machine: Machine, tmp_path: Path
) -> None:
    here = ("train", f"{tiny_file}:problem", "--threads", "auto", "--checkpoint", tmp_path / "x.pt")
    assert stantune(*here, "--iterations", 4).code == 0
    torch.set_num_threads(1)
    again = stantune(*here, "--iterations", 8)
    assert again.code == 0
    assert "threads: 2 (it was begun with as many)" in again.out
    assert torch.get_num_threads() == 2
    assert len(machine) == 1
    # A number that is given is taken, and the checkpoint has that from then on.
    assert stantune(*here, "--iterations", 12, "--threads", 1).code == 0
    assert "threads: 1 (it was begun" in stantune(*here, "--iterations", 16).out


@pytest.mark.parametrize("limits", [(), ("--trial-timeout", "1m")], ids=["alone", "in a worker"])
def test_a_search_measures_once(
    stantune: Stantune, tiny: tuple[str, ...], machine: Machine, tmp_path: Path, limits: tuple[str, ...]
) -> None:
    here = ("search", *tiny, "--budget", 0, "--out", tmp_path, *limits)
    begun = stantune(*here, "--threads", "auto")
    assert begun.code == 0, begun.err
    assert "threads: 2 (an iteration takes 30 ms; 50 ms with 1)" in begun.out
    again = stantune(*here, "--threads", "auto", "--workers", 2)
    assert again.code == 0, again.err
    assert "threads: 2 (it was begun with as many)" in again.out
    assert machine == [(10, (True,))]
    assert "threads: 2 there, 1 here" in stantune(*here, "--threads", 1).err
    exact = ("search", *tiny[:-2], *here[1 + len(tiny) :], "--accelerate", "none")
    anew = stantune(*exact, "--threads", "auto", "--fresh", "--yes")
    assert "threads: 3 (an iteration" in anew.out
    assert machine[1:] == [(10, (False,))]


def test_several_workers_have_one_thread_each(
    stantune: Stantune, tiny: tuple[str, ...], machine: Machine, tmp_path: Path
) -> None:
    run = stantune("search", *tiny, "--budget", 0, "--out", tmp_path, "--threads", "auto", "--workers", 3)
    assert run.code == 0, run.err
    assert "threads: 1 (trainings side by side do most with one each)" in run.out
    assert not machine
    assert "threads: 1 there, 2 here" in stantune("search", *tiny, "--out", tmp_path, "--threads", 2).err


def test_the_plan_of_a_search_is_timed_with_them(stantune: Stantune, tiny: tuple[str, ...], machine: Machine) -> None:
    run = stantune("brackets", *tiny, "--threads", "auto")
    assert run.code == 0, run.err
    assert "threads: 2 (an iteration" in run.out
    assert torch.get_num_threads() == 2
    assert machine == [(10, (True,))]


def test_a_comparison_keeps_them_with_its_records(
    stantune: Stantune, tiny_file: Path, machine: Machine, tmp_path: Path
) -> None:
    here = ("compare", f"{tiny_file}:problem", "--seeds", 1, "--iterations", 4, "--threads", "auto", "--json", "-")
    kept = (*here, "--out", tmp_path / "out")
    run = stantune(*kept)
    assert run.code == 0, run.err
    assert run.json["threads"] == 2
    assert machine == [(10, (False, True))], "neither side has the number that suits the other"
    again = stantune(*kept)
    assert (again.code, again.json) == (0, run.json)
    assert "threads: 2 (it was begun with as many)" in again.err
    assert len(machine) == 1
    assert stantune(*here).json["threads"] == 3
    (tmp_path / "out" / "plans.json").write_text("{")
    damaged = stantune(*kept)
    assert damaged.code == 1
    assert "plans.json is damaged" in damaged.err


@pytest.mark.usefixtures("machine")
def test_they_are_measured_in_the_numbers_of_the_trainings(
    stantune: Stantune, tiny_file: Path, tiny: tuple[str, ...], numbers: list[str | None], tmp_path: Path
) -> None:
    more = ("--threads", "auto", "--precision", "bf16")
    problem = (f"{tiny_file}:problem", "--iterations", 4)
    for run in (
        stantune("train", *problem, *more),
        stantune("compare", *problem, "--seeds", 1, *more),
        stantune("search", *tiny, "--budget", 0, "--out", tmp_path, *more),
    ):
        assert run.code == 0, run.err
    assert numbers == ["bf16"] * 3


def test_a_profile_tells_all_times(stantune: Stantune, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "SECONDS", 0.1)
    monkeypatch.setattr("stantune.training.planning.SECONDS", 0.2)
    torch.set_num_threads(1)
    run = stantune("profile", f"{tiny_file}:problem", "--batch-size", 20, "--threads", "auto", "--json", "-")
    assert run.code == 0, run.err
    tried = json.loads(run.out)["threads_tried"]
    assert [one["threads"] for one in tried] == [1, 2]
    chosen = run.json["threads"]
    assert chosen in (1, 2)
    assert f"threads: {chosen} (an iteration takes " in run.err
    assert "an exact iteration with native kernels by number of threads: " in run.err
    plain = stantune("profile", f"{tiny_file}:problem", "--threads", 1, "--json", "-")
    assert plain.json["threads_tried"] is None
