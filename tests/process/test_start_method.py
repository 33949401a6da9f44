"""Data loaders of a user's own classes begin in a search's processes, whatever Python's default start method is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")

# As in Python 3.14, in this process and in all that it starts.
NEWER_PYTHON = """
import multiprocessing
from multiprocessing import context

usual = context.DefaultContext(context._concrete_contexts["forkserver"])
usual.get_all_start_methods = lambda: ["forkserver", "fork", "spawn"]
context._default_context = usual
vars(multiprocessing).update({name: getattr(usual, name) for name in multiprocessing.__all__})
"""
OWN = """
import torch
from torch.utils.data import DataLoader, Dataset

import stantune as st


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, place):
        return torch.tensor(float(place))


SPACE = st.Space({"x": st.Float(0, 1)})


@st.objective(space=SPACE, minimize="error", max_resource=2)
def train(run):
    for _ in run.steps():
        read = sum(batch.sum().item() for batch in DataLoader(Numbers(), batch_size=2, num_workers=1))
    return {"error": read + run.params["x"]}


if __name__ == "__main__":
    result = st.tune(train, workers=2, final="none", out="found")
    assert 6 <= result.best.value <= 7, result
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run this Python as if it were newer, beside the user's own file."""
    (tmp_path / "sitecustomize.py").write_text(NEWER_PYTHON)
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda *command: subprocess.run(
        [sys.executable, *command], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_of_a_file_on_the_command_line(run: Run, workers: str) -> None:
    done = run("-m", "stantune", "search", "own.py:train", "--workers", workers, "--out", "found")
    assert not done.returncode, done.stderr


def test_of_a_script(run: Run) -> None:
    done = run("own.py")
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    ("before", "after", "method"),
    [("", "", "fork"), ("", "spawn", "spawn"), ("spawn", "", "spawn"), ("forkserver", "", "fork")],
)
def test_what_a_program_chooses_stays(run: Run, before: str, after: str, method: str) -> None:
    choose = "multiprocessing.set_start_method({!r});"
    done = run(
        "-c",
        "import multiprocessing; from stantune.process.start_method import copy_processes;"
        + (choose.format(before) if before else "")
        + "copy_processes();"
        + (choose.format(after) if after else "")
        + "print(multiprocessing.get_start_method())",
    )
    assert (done.stdout, done.returncode) == (f"{method}\n", 0), done.stderr
