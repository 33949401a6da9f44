"""A few kills of the soak's two hundred: processes of a search with workers, killed at random moments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_soak_of_a_few_kills() -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "8", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    head, _, figures = ([cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines())
    told = dict(zip(head, map(int, figures), strict=True))
    assert told["kills"] == told["of the main one"] + told["of workers"] >= 8
    assert (told["left over"], told["different"]) == (0, 0)
