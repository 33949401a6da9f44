"""Where native batch norms and poolings pay, beside PyTorch's, forward and backward, channels last, over random shapes.

    python -m benchmarks.kernels.norms_and_pools --seconds 240

Each shape is timed in each case (PyTorch's ReLU in place, as most networks have it), both sides in turns in one process
of one thread that keeps its buffers, after the caches were filled with other things; what counts is the median of a
side. The tables have the geometric mean of PyTorch's time over native code's by how many numbers there are and by
channels, and the least.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.side_by_side import setting, table
from stantune.kernels.batch_norm import normalise
from stantune.kernels.library import plain_pytorch
from stantune.kernels.pays import norm_pays, pool_pays
from stantune.kernels.pool import Pool, pooled
from stantune.process.runtime import tune_process

CHANNELS = (4, 8, 16, 24, 32, 64, 128, 256, 512)
SIZES = (2**14, 2**15, 2**16, 2**17, 2**18, 2**19, 2**20, 2**21)
ROUNDS = 11
# Floats that fill a core's caches.
OTHER_THINGS = 2**20


class Case(NamedTuple):
    """What is timed: a batch norm with what is behind it, or a pooling by itself."""

    relu: bool = False
    windows: tuple[int, int] | None = None
    pool: Pool | None = None

    def pays(self, rows: int, channels: int) -> bool:
        """Tell what the rule says of so many numbers of each channel."""
        if self.pool is not None:
            return pool_pays(rows * channels, channels, self.pool.average)
        return norm_pays(rows, channels, self.relu, self.windows is not None)


CASES = {
    "batch norm": Case(),
    "batch norm, ReLU": Case(relu=True),
    "batch norm, ReLU, maximum of 2x2": Case(relu=True, windows=(2, 2)),
    "maximum of 2x2": Case(pool=Pool(False, (2, 2), (2, 2))),
    "maximum of 3x3, stride 2": Case(pool=Pool(False, (3, 3), (2, 2), (1, 1))),
    "average of 2x2": Case(pool=Pool(True, (2, 2), (2, 2))),
}


class Timed(NamedTuple):
    """A shape, the case's name, and PyTorch's time over native code's."""

    shape: tuple[int, int, int, int]
    case: str
    faster: float

    @property
    def rows(self) -> int:
        """How many numbers each channel has."""
        batch, _, height, width = self.shape
        return batch * height * width

    @property
    def under_the_rule(self) -> float:
        """What is gained where the rule decides."""
        return self.faster if CASES[self.case].pays(self.rows, self.shape[1]) else 1.0


def timed(shape: tuple[int, int, int, int], name: str, seed: int) -> Timed:
    """Time both sides in turns."""
    case, generator = CASES[name], torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.ones(shape[1], requires_grad=True), torch.zeros(shape[1], requires_grad=True)
    running = torch.zeros(shape[1]), torch.ones(shape[1])
    others = torch.empty(OTHER_THINGS)

    def native() -> Tensor:
        if case.pool is not None:
            return pooled(x, case.pool)
        return normalise(x, *running, 0.1, 1e-5, weight, bias, case.relu, case.windows)

    def stock() -> Tensor:
        if case.pool is not None:
            with plain_pytorch():
                return pooled(x, case.pool)
        y = F.batch_norm(x, *running, weight, bias, True, 0.1, 1e-5)
        y = F.relu_(y) if case.relu else y
        return y if case.windows is None else F.max_pool2d(y, case.windows)

    inputs = (x,) if case.pool is not None else (x, weight, bias)
    gradient = torch.randn(native().shape, generator=generator).contiguous(memory_format=torch.channels_last)

    def seconds(forward: Callable[[], Tensor]) -> float:
        others.zero_()
        began = time.thread_time()
        torch.autograd.grad(forward(), inputs, gradient)
        return time.thread_time() - began

    pairs = [(seconds(stock), seconds(native)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Timed(shape, name, mine / other)


def drawn(generator: random.Random) -> tuple[int, int, int, int]:
    """Return a shape of one of CHANNELS and about one of SIZES."""
    channels, numbers = generator.choice(CHANNELS), generator.choice(SIZES)
    side = generator.choice((2, 4, 7, 8, 14, 16, 28, 32, 56))
    return max(1, numbers // (channels * side * side)), channels, side, side


def main() -> None:
    """Time random shapes for so long, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tune_process(1)
    generator, found = random.Random(options.seed), list[Timed]()
    began = time.monotonic()
    while time.monotonic() - began < options.seconds:
        shape = drawn(generator)
        found += [timed(shape, name, len(found)) for name in CASES]
    print(f"{len(found)} times, {setting(1)}\n")
    for name in CASES:
        own = [one for one in found if one.case == name]
        groups: dict[tuple[int, int], list[float]] = defaultdict(list)
        for one in own:
            groups[(one.rows * one.shape[1]).bit_length() - 1, one.shape[1]].append(one.faster)
        rows = [
            (f"2^{size}", *(_cell(groups.get((size, channels), [])) for channels in CHANNELS))
            for size in sorted({size for size, _ in groups})
        ]
        print(f"{name}\n\n{table(('numbers', *map(str, CHANNELS)), rows)}\n")
        ruled = [one.under_the_rule for one in own]
        slower = sum(each < 0.97 for each in ruled) / len(ruled)
        print(f"under the rule: {statistics.geometric_mean(ruled):.2f}; slower by more than 3 %: {slower:.1%}\n")


def _cell(ratios: list[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else ""


if __name__ == "__main__":
    main()
