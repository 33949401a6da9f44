"""Where native batch norm pays, beside PyTorch's, forward and backward, channels last, over random shapes.

    python -m benchmarks.kernels.norms --seconds 120

Each shape is timed with and without the ReLU behind it (PyTorch's in place, as most networks have it), both sides in
turns in one process of one thread that keeps its buffers; what counts is the median of a side. The table has the
geometric mean of PyTorch's time over native code's by how many numbers there are and by channels, and the least.
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
from stantune.kernels.pays import norm_pays
from stantune.process.runtime import tune_process

CHANNELS = (4, 8, 16, 24, 32, 64, 128, 256, 512)
SIZES = (2**15, 2**16, 2**17, 2**18, 2**19, 2**20, 2**21)
ROUNDS = 15


class Timed(NamedTuple):
    """A shape, whether ReLU is behind it, and PyTorch's time over native code's."""

    shape: tuple[int, int, int, int]
    relu: bool
    faster: float

    @property
    def numbers(self) -> int:
        """How many there are."""
        batch, channels, height, width = self.shape
        return batch * channels * height * width


def timed(shape: tuple[int, int, int, int], relu: bool, seed: int) -> Timed:
    """Time both sides in turns."""
    generator = torch.Generator().manual_seed(seed)
    x, gradient = (
        torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    x.requires_grad_()
    weight, bias = torch.ones(shape[1], requires_grad=True), torch.zeros(shape[1], requires_grad=True)
    running = torch.zeros(shape[1]), torch.ones(shape[1])

    def stock() -> Tensor:
        y = F.batch_norm(x, *running, weight, bias, True, 0.1, 1e-5)
        return F.relu_(y) if relu else y

    def native() -> Tensor:
        return normalise(x, *running, 0.1, 1e-5, weight, bias, relu)

    def seconds(forward: Callable[[], Tensor]) -> float:
        began = time.thread_time()
        torch.autograd.grad(forward(), (x, weight, bias), gradient)
        return time.thread_time() - began

    pairs = [(seconds(stock), seconds(native)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Timed(shape, relu, mine / other)


def drawn(generator: random.Random) -> tuple[int, int, int, int]:
    """Return a shape of one of CHANNELS and about one of SIZES."""
    channels, numbers = generator.choice(CHANNELS), generator.choice(SIZES)
    side = generator.choice((2, 4, 7, 8, 14, 16, 28, 32, 56))
    return max(1, numbers // (channels * side * side)), channels, side, side


def main() -> None:
    """Time random shapes for so long, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tune_process(1)
    generator, found = random.Random(options.seed), list[Timed]()
    began = time.monotonic()
    while time.monotonic() - began < options.seconds:
        shape = drawn(generator)
        found += [timed(shape, relu, len(found)) for relu in (False, True)]
    print(f"{len(found)} shapes, {setting(1)}\n")
    for relu in (False, True):
        groups: dict[tuple[int, int], list[float]] = defaultdict(list)
        for one in found:
            if one.relu == relu:
                groups[one.numbers.bit_length() - 1, one.shape[1]].append(one.faster)
        rows = [
            (f"2^{size}", *(_cell(groups.get((size, channels), [])) for channels in CHANNELS))
            for size in sorted({size for size, _ in groups})
        ]
        print(f"with ReLU: {relu}\n\n{table(('numbers', *map(str, CHANNELS)), rows)}\n")
        ruled = [_under_the_rule(one) for one in found if one.relu == relu]
        slower = sum(each < 0.97 for each in ruled) / len(ruled)
        print(f"under the rule: {statistics.geometric_mean(ruled):.2f}; slower by more than 3 %: {slower:.1%}\n")


def _under_the_rule(one: Timed) -> float:
    channels = one.shape[1]
    return one.faster if norm_pays(one.numbers // channels, channels, one.relu) else 1.0


def _cell(ratios: list[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else ""


if __name__ == "__main__":
    main()
