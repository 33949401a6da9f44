"""How the native library is loaded: beside whatever else a process has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stantune.kernels.library import kernels

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
RUNTIMES = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))

# Loads another OpenMP runtime, and says in which file the function lies whose threads the library is given.
SCRIPT = """
import ctypes, sys
import torch
from stantune.kernels import library

class Told:
    def stan_use_openmp(self, function):
        for line in open("/proc/self/maps"):
            begin, end = (int(number, 16) for number in line.split()[0].split("-"))
            if begin <= function.value < end:
                print(line.split(maxsplit=5)[5], end="")

ctypes.CDLL(sys.argv[1])
library._share_threads(Told())
"""


@pytest.mark.skipif(not RUNTIMES, reason="this PyTorch has no libgomp of its own")
@pytest.mark.parametrize("folder", ["other", "another (copy)"])
def test_of_several_openmp_runtimes_pytorchs_is_shared(folder: str, tmp_path: Path) -> None:
    other = tmp_path / folder / "libgomp-0.so.1"
    other.parent.mkdir()
    shutil.copy(RUNTIMES[0], other)
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(other)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(RUNTIMES[0].resolve())
