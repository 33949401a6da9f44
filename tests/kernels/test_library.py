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


# Forks where PyTorch has computed in parallel and nothing was natively: the child loads the library first.
FORKED = """
import os, signal, sys
import torch
import stantune
if sys.argv[1] == "before":
    import stantune.kernels.library

torch.set_num_threads(2)
torch.ones(10**7).sum()
if not (child := os.fork()):
    signal.alarm(20)
    from stantune import Stan, accelerate_
    from stantune.kernels.library import kernels
    assert not kernels.cache_info().currsize
    layer = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    accelerate_(layer, Stan())
    layer(torch.ones(4, 8, 16, 16)).sum().backward()
    os._exit(0 if kernels.cache_info().currsize else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not RUNTIMES, reason="this PyTorch has no libgomp of its own")
@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_forked_child_that_loads_it_first_waits_for_no_thread_of_its_parent(imported: str) -> None:
    ran = subprocess.run([sys.executable, "-c", FORKED, imported], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# Makes steps on denormal numbers, in threads that began before the calling one counted them as zero, and after that.
FLUSHING = """
import sys
import torch
from stantune.kernels.library import kernels
from stantune.kernels.sgd import Sgd

torch.set_num_threads(3)
if sys.argv[1] == "own":
    kernels().library.stan_use_openmp(None)
DENORMAL = torch.finfo(torch.float32).tiny / 2

def kept(steps):
    weight = torch.nn.Parameter(torch.empty(10**6))
    weight.grad, optimizer = torch.zeros_like(weight), Sgd([weight], lr=0.1)
    for _ in range(steps):
        weight.data.view(torch.int32).fill_(1 << 22)
        optimizer.step()
        yield int((weight.data.view(torch.int32) != 0).sum())

for flush in (False, True, False):
    torch.set_flush_denormal(flush)
    print(sorted(set(kept(20))))
    # PyTorch's own threads are as they were.
    torch.set_flush_denormal(False)
    print(int(((torch.full((10**6,), 2 * DENORMAL) / 2).view(torch.int32) != 0).sum()))
"""


@pytest.mark.parametrize("whose", ["OpenMP's", "own"])
def test_all_threads_of_a_pass_count_denormals_as_the_calling_one(whose: str) -> None:
    ran = subprocess.run([sys.executable, "-c", FLUSHING, whose], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["[1000000]", "1000000", "[0]", "1000000", "[1000000]", "1000000"]


# Lets the process have 400 MB more: input and output take 72 MB, and what each thread keeps between them 576 MB.
CROWDED = """
import resource, sys
import torch
from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import kernels

torch.set_num_threads(int(sys.argv[1]))
if sys.argv[2] == "own":
    kernels().library.stan_use_openmp(None)
weight, follow = torch.ones(16, 1, 1, 1), Follow("average", (64, 64), (64, 64))

def largest(side):
    return float(convolve(torch.ones(2, 1, side, side), weight, None, (1, 1), (0, 0, 0, 0), None, follow).max())

largest(100)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    largest(3000)
except MemoryError as error:
    print(error)
print(largest(101))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and their measure are those of Linux")
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("whose", ["OpenMP's", "own"])
def test_too_little_memory_is_an_error_and_not_the_processs_end(threads: str, whose: str) -> None:
    ran = subprocess.run([sys.executable, "-c", CROWDED, threads, whose], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "native kernels could not have the memory" in ran.stdout.splitlines()[0]
    assert ran.stdout.splitlines()[1] == "1.0"
