"""Inputs of every kind, thousands of them: each works or is refused in a sentence, soon and in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the script looks at its memory")

SCRIPT = Path(__file__).with_name("fuzz.py")


def fuzz(kind: str, count: int, first: int) -> str:
    """Run the script in a process of its own, which may end in any way; return what it printed."""
    command = [sys.executable, str(SCRIPT), kind, str(count), str(first)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=36_000)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "count"),
    [("options", 6), ("fields", 100), ("files", 120), ("cells", 8), ("journals", 15), ("caffe", 250)],
)
def test_a_few_of_each_kind(kind: str, count: int) -> None:
    assert " 0 faults; " in fuzz(kind, count, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("options", 30_000),
        ("fields", 30_000),
        ("files", 20_000),
        ("cells", 10_000),
        ("journals", 10_000),
        ("caffe", 100_000),
    ],
)
def test_a_hundred_thousand(kind: str, count: int) -> None:
    assert " 0 faults; " in fuzz(kind, count, 1000)
