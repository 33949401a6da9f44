"""The user's code ends the program, or gives a trial up as Optuna's does: one sentence, or an ordinary result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.search.results.contract import SearchSummary

Stantune = Callable[..., Any]
PROBLEM = """
import sys

import optuna
import torch
from torch import nn

from stantune import Dataset, Float, Problem, Solver, Space, Split


def data(root):
    images, labels = torch.zeros(60, 4, 4, 1, dtype=torch.uint8), torch.arange(60) % 2
    return Dataset("zeros", Split(images, labels), Split(images, labels))


class Given(nn.Module):
    def forward(self, images):
        if self.training:
            {code}
        return images


def network():
    {built}
    return nn.Sequential(Given(), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


space = Space({{"lr": Float(0.01, 0.1)}})
problem = Problem("given", network, data, space, Solver(lr=0.1), iterations=9, batch_size=10)
{top}
"""


def written(path: Path, *, code: str = "pass", built: str = "pass", top: str = "") -> str:
    file = path / "given.py"
    file.write_text(PROBLEM.format(code=code, built=built, top=top))
    return f"{file}:problem"


COMMANDS = {
    "search": ("--threads", 1),
    "brackets": (),
    "train": ("--threads", 1),
    "compare": ("--seeds", 1, "--threads", 1),
    "profile": ("--threads", 1),
    "entries": ("--threads", 1),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_ends_the_program_is_told_so(
    command: str, stantune: Stantune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path, top="sys.exit(0)")
    ended = stantune(command, source, *COMMANDS[command])
    assert ended.err.splitlines()[-1] == (
        f"stantune: {tmp_path / 'given.py'} ends the program, by sys.exit or the like, as it is loaded; put what only "
        "a script is to do below if __name__ == '__main__'"
    )
    assert ended.code == 2
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["given.py"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("accelerate", ["stan", "none"])
def test_a_network_that_ends_the_program_is_told_so(
    command: str, accelerate: str, stantune: Stantune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ("--accelerate", accelerate) if command in ("search", "brackets", "train") else ()
    ended = stantune(command, written(tmp_path, built="sys.exit(0)"), *COMMANDS[command], *more)
    assert ended.code in (1, 2)
    last = ended.err.splitlines()[-1]
    assert last.startswith("stantune: ")
    assert "ends the program, by sys.exit" in last or "has ended the program, by sys.exit" in last
    assert "have it raise an error that says what is wrong" in last


def test_a_network_that_gives_up_as_in_optuna_is_lost_at_once(stantune: Stantune, tmp_path: Path) -> None:
    source = written(tmp_path, code="raise optuna.TrialPruned")
    ended = stantune("search", source, "--threads", 1, "--accelerate", "none", "--out", tmp_path / "out", "--json", "-")
    result = SearchSummary.model_validate_json(ended.out)
    counts = result.counts
    assert (counts.diverged, counts.failed, counts.retries) == (counts.trials, 0, 0)
    assert ended.code == 3
    assert "every trial diverged" in ended.err
