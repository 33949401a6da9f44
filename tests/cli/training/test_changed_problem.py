"""A search whose problem has changed is refused with what changed named, or goes on where that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stantune.search.directory.directory import SearchDirectory
from stantune.search.table.storages.opening import reading

PROBLEM = """
import torch
from torch import nn
from stantune import Dataset, Float, Problem, Solver, Space, Split

def images(root):
    labels = torch.arange(60) % 2
    pixels = (labels[:, None, None, None] * 100).expand(60, 4, 4, 1).contiguous().to(torch.uint8)
    return Dataset("halves", Split(pixels, labels), Split(pixels, labels), 2)

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))

space = Space({"lr": Float(1e-4, 1e-2, log=True)})
problem = Problem("changing", network, images, space, Solver(lr=0.01, momentum=0.5),
    iterations=6, batch_size=10, validation=20)
"""
CHANGES = {
    "network": ("nn.ReLU()", "nn.Tanh()"),
    "solver.momentum": ("momentum=0.5", "momentum=0.6"),
    "validation": ("validation=20", "validation=10"),
    "data": ("* 100", "* 90"),
    "normalise.scale": ("validation=20)", "validation=20, normalise=__import__('stantune').Normalise(scale=0.5))"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_named_and_may_be_accepted(stantune: Any, tmp_path: Path, what: str) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(PROBLEM)
    command = ("search", file, "--max-iterations", "6", "--min-iterations", "2", "--threads", "1", "--out", out)
    assert stantune(*command).code == 0
    # A comment is no change.
    file.write_text(f"# as before\n{PROBLEM}")
    assert stantune(*command).code == 0
    file.write_text(PROBLEM.replace(*CHANGES[what]))
    refused = stantune(*command)
    assert refused.code == 2
    assert f"made-of.{what}: " in refused.err
    assert "--accept-changes" in refused.err
    assert stantune(*command, "--accept-changes").code == 0
    assert stantune(*command).code == 0, "it was written down"
    directory = SearchDirectory(out)
    with reading(directory.url, directory.study) as found:
        assert found is not None
        storage, study = found
        [[difference]] = storage.get_study_user_attrs(study)["stantune:accepted"]
    assert difference.startswith(f"made-of.{what}: ")


def test_a_training_does_not_go_on_with_another_network(stantune: Any, tmp_path: Path) -> None:
    file, checkpoint = tmp_path / "mine.py", tmp_path / "w.pt"
    file.write_text(PROBLEM)
    command = ("train", f"{file}:problem", "--threads", "1", "--checkpoint", checkpoint, "--iterations")
    assert stantune(*command, "3").code == 0
    file.write_text(f"# as before\n{PROBLEM}")
    assert stantune(*command, "4").code == 0
    file.write_text(PROBLEM.replace(*CHANGES["network"]))
    refused = stantune(*command, "6")
    assert refused.code != 0
    assert "it was trained with another made-of: undo that change" in refused.err


def test_a_mistake_that_is_found_before_the_first_training_can_be_mended(stantune: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(PROBLEM.replace("nn.Linear(16, 8)", "nn.Linear(17, 8)"))
    command = ("search", file, "--max-iterations", "6", "--min-iterations", "2", "--threads", "1", "--out", out)
    refused = stantune(*command)
    assert refused.code == 2
    assert "the network fails on inputs of shape (2, 1, 4, 4)" in refused.err
    file.write_text(PROBLEM)
    assert stantune(*command).code == 0


def test_a_file_that_changes_the_working_folder_moves_nothing(
    stantune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "mine.py").write_text(f"import os\nos.chdir({str(elsewhere)!r})\n{PROBLEM}")
    monkeypatch.chdir(tmp_path)
    sizes = ("--max-iterations", "2", "--threads", "1")
    # Workers find the file by its path.
    found = stantune("search", "mine.py", *sizes, "--workers", "2", "--out", "out", "--json", "found.json")
    assert found.code == 0, found.err
    assert stantune("train", "mine.py:problem", "--iterations", "2", "--checkpoint", "w.pt").code == 0
    assert {each.name for each in tmp_path.iterdir()} >= {"out", "found.json", "w.pt"}
    assert not list(elsewhere.iterdir())
