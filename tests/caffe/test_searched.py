"""Caffe's files are searched as they are, in a process that has made no other problem."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILES = Path(__file__).parents[2] / "examples" / "caffe"
SCRIPT = """
import sys
from stantune import from_caffe
problem = from_caffe(sys.argv[1], sys.argv[2], "mnist")
from stantune.objectives.choose import objective_of
print(objective_of(problem).name)
"""


def test_files_alone_are_a_problem() -> None:
    files = [str(FILES / f"lenet_{what}.prototxt") for what in ("train_test", "solver")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *files], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["lenet_train_test"], done.stderr
