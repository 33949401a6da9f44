"""How long it takes to list what a block's pooling sees."""

from __future__ import annotations

import time

import pytest
import torch

from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import kernels
from stantune.stan.entries.entries import PLANE, Grid
from stantune.stan.entries.lists import lists_of

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
SIDE = 224


@pytest.mark.parametrize("pattern", [None, "columns"])
def test_one_large_window_takes_about_as_long_as_many_small_ones(pattern: str | None) -> None:
    lists = None if pattern is None else lists_of(Grid(PLANE[pattern], 0, 0), SIDE, SIDE)
    input, weight = torch.randn(1, 1, SIDE, SIDE), torch.randn(1, 1, 1, 1)

    def seconds(size: int) -> float:
        follow = Follow("average", (size, size), (size, size))
        took = []
        for _ in range(3):
            began = time.process_time()
            convolve(input, weight, None, (1, 1), (0, 0, 0, 0), lists, follow)
            took.append(time.process_time() - began)
        return min(took)

    # Quadratic in the window's places, it took some hundred times as long: seconds. Clocks may be coarse.
    assert seconds(SIDE) < 20 * max(seconds(2), 0.02)
