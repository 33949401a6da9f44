"""A tuned process takes no new memory from the system once it has trained and evaluated a little."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

from stantune.process.runtime import keeps_buffers

ROUNDS = """
import resource
import torch
from stantune import Stan
from stantune.images.data import Split
from stantune.images.problem.built_in import BUILT_IN, Splits
from stantune.process.runtime import tune_process
from stantune.images.solving.evaluation import error_percent
from stantune.training.trial import Trial

tune_process(1)

def split(count):
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8)
    return Split(pixels, torch.randint(10, (count,)), torch.arange(count))

problem, train = BUILT_IN["cq"], split(400)
splits = Splits(train, split(0), split(200), problem.normalise.fit(train), 10)
trial = Trial(problem, {}, splits, seed=0, stan=Stan(period=2))
for _ in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    trial.train(trial.iteration + 3, lambda: False, lambda done: None)
    error_percent(trial.model, splits.test, splits.normaliser)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGE = 4096
LARGE = 2**20  # bytes; a batch's images are 1.2 MB


@pytest.mark.skipif(not keeps_buffers(), reason="the C library is not glibc")
def test_after_its_first_iterations_a_tuned_process_takes_nothing_large() -> None:
    ran = subprocess.run([sys.executable, "-c", ROUNDS], capture_output=True, text=True, check=True)
    pages = [int(word) for word in ran.stdout.split()]
    # The median: the heap grows now and then at first, where its gaps are too small. (Untuned: some 5 MB a round.)
    assert statistics.median(pages[6:]) * PAGE < LARGE
