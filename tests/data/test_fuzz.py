"""Files of every format, damaged in every way: each is sound, or refused in a sentence, soon and in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the script looks at its memory")

SCRIPT = Path(__file__).with_name("fuzz_formats.py")


def fuzz(count: int, seed: int) -> str:
    """Run the script in a process of its own, which may end in any way; return what it printed."""
    command = [sys.executable, str(SCRIPT), str(count), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_some_thousand_damaged_files() -> None:
    assert "\n0 faults; slowest " in fuzz(3000, 0)


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files() -> None:
    assert "\n0 faults; slowest " in fuzz(100_000, 1)
