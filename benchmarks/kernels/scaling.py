"""Where native convolutions pay and where they stop paying: batch, image size and channels varied one at a time.

    python -m benchmarks.kernels.scaling [--threads 1] [--rounds 7] [--plot scaling.png]

A 3x3 convolution with as many filters as channels, then ReLU, forward and backward with the input's gradient, against
PyTorch in its best setting (channels_last, the same threads, buffers kept).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.side_by_side import Side, interleave, plot, setting, several, table
from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.stan.entries.entries import PLANE, Grid
from stantune.stan.entries.lists import lists_of

# (batch, image, channels) around a common middle.
SHAPES = [
    *((batch, 32, 64) for batch in (25, 100, 400, 800)),
    *((25, image, 64) for image in (16, 64, 128)),
    *((100, 16, channels) for channels in (16, 32, 64, 128, 256)),
    (100, 8, 256),
    (100, 4, 512),
]
PATTERN = {"1": None, "1/2": PLANE["columns"], "1/4": PLANE["blocks"]}
STOCK = "stock"


def work(batch: int, image: int, channels: int, kept: str | None) -> Callable[[], None]:
    """Return a forward and backward pass; PyTorch's where `kept` is None."""
    torch.manual_seed(0)
    order = torch.channels_last
    input = torch.randn(batch, channels, image, image).contiguous(memory_format=order).requires_grad_()
    weight = torch.randn(channels, channels, 3, 3).contiguous(memory_format=order).requires_grad_()
    bias = torch.randn(channels, requires_grad=True)
    gradient = torch.randn(batch, channels, image, image).contiguous(memory_format=order)
    pattern = None if kept is None else PATTERN[kept]
    lists = None if pattern is None else lists_of(Grid(pattern, 0, 0), image, image)

    def output() -> Tensor:
        if kept is None:
            return F.conv2d(input, weight, bias, padding=1).relu()
        return convolve(input, weight, bias, (1, 1), (1, 1, 1, 1), lists, Follow(relu=True))

    def passes() -> None:
        torch.autograd.grad(output(), (input, weight, bias), gradient)

    return passes


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=several, default=7)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    rows = []
    ratios: dict[str, dict[str, float]] = {}
    for shape in SHAPES:
        sides = [
            Side(STOCK, partial(work, *shape, None)),
            *(Side(kept, partial(work, *shape, kept)) for kept in PATTERN),
        ]
        times = interleave(sides, arguments.threads, arguments.rounds, repeats=1)
        faster = {kept: times[kept].faster_than(times[STOCK]) for kept in PATTERN}
        low, high = times[STOCK].quartiles
        rows.append(
            (
                *map(str, shape),
                f"{times[STOCK].median:.1f} ({low:.1f} … {high:.1f})",
                *(f"{r:.2f}" for r in faster.values()),
            )
        )
        ratios["{} x {}² x {}".format(*shape)] = faster
        print(rows[-1], flush=True)
    print(f"\n{setting(arguments.threads)}, median of {arguments.rounds} rounds; ", end="")
    print("times faster than stock at kept 1, 1/2, 1/4\n")
    print(table(("batch", "image", "channels", "stock, ms", "1", "1/2", "1/4"), rows))
    if arguments.plot is not None:
        plot(arguments.plot, "3x3 convolution and ReLU, forward and backward", ratios)


if __name__ == "__main__":
    main()
