"""A Ray cluster on this machine, for the tests of what objectives are on another one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RAY = Path(__file__).parents[2] / "benchmarks" / "robustness" / "local_ray.py"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The cluster's."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'stantune[ray]'")
    # Nothing of the folder that the tests run in is to be found there by chance.
    command = [sys.executable, str(RAY)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    assert process.stdin is not None
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if not said:
        pytest.skip("Ray starts no cluster here")
    yield said
    process.stdin.close()
    process.wait()
