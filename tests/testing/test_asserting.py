"""Where Python leaves assertions out, a check says so: whatever is wrong would pass."""

from __future__ import annotations

import subprocess
import sys

import pytest

WRONG = """
import sys
from dataclasses import dataclass
from pathlib import Path
from stantune import UsageError, testing
from stantune.testing.executors import Counting

class Nothing:
    name, waits, identity = "nothing", False, {}
    def __init__(self, *given): pass
    def propose(self, asked): return {"unknown": 1}

@dataclass(frozen=True)
class Unnamed(Counting):
    name: str = ""

given = {"check_objective": Unnamed(), "check_sampler": Nothing, "check_executor": Nothing, "check_logger": Nothing}
try:
    getattr(testing, sys.argv[1])(given[sys.argv[1]])
except UsageError as error:
    print(error)
else:
    print("it passes")
"""


@pytest.mark.parametrize("check", ["check_objective", "check_sampler", "check_executor", "check_logger"])
def test_nothing_passes_without_assertions(check: str) -> None:
    done = subprocess.run([sys.executable, "-O", "-c", WRONG, check], capture_output=True, text=True)
    assert done.stdout.startswith("Python runs with -O or PYTHONOPTIMIZE, which leaves out"), done.stdout + done.stderr
