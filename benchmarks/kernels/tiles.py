"""Times of Triton's programs by the tiles that they compute at a time, on a CUDA device.

    python -m benchmarks.kernels.tiles [--batch 128] [--shapes 64-64-3-32,3-32-5-32] [--processes 8]

A shape is channels-filters-kernel-side of a convolution with padding, at one entry of each 2x2 block. For each program
the fastest tiles come first, with their microseconds; `triton_conv.tiles_of_output` and the like hold what suits all.
Processes compile side by side first, which takes most of the time.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Callable, Iterator

import torch
import triton

from stantune.kernels.cuda.rows import Window
from stantune.kernels.cuda.triton_conv import Tiles, _Job
from stantune.stan.entries.entries import PATTERNS, Grid
from stantune.stan.entries.filled import _rows_of_grid

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHAPES = "64-64-3-32,128-128-3-16,256-256-3-8,512-512-3-4,3-32-5-32,32-32-5-16,32-64-5-8"
SIZES = (32, 64, 128), (32, 64, 128), (16, 32, 64), (4, 8)
# Sums that each thread holds in registers; more of them spill.
MOST_SUMS = 128


def candidates(channels: int, filters: int) -> Iterator[Tiles]:
    """Return tiles that waste little on a convolution of this size."""
    for rows, columns, depth, warps in itertools.product(*SIZES):
        fits = columns <= max(32, filters) and (depth <= max(32, channels) or channels < 16)
        if fits and rows * columns <= MOST_SUMS * 32 * warps:
            yield Tiles(rows, columns, depth, warps)


def programs(shape: str, dtype: torch.dtype, batch: int, tiles: Tiles) -> dict[str, Callable[[], object]]:
    """Return functions that launch each program once."""
    channels, filters, kernel, side = map(int, shape.split("-"))
    device, last = torch.device("cuda"), torch.channels_last
    input = torch.randn(batch, channels, side, side, device=device, dtype=dtype).contiguous(memory_format=last)
    weight = torch.randn(filters, channels, kernel, kernel, device=device, dtype=dtype).contiguous(memory_format=last)
    size, taps, pad = (side, side), (kernel, kernel), kernel // 2
    window = Window(size, size, taps, (1, 1), (pad, pad), (1, 1))
    job = _Job(input, weight, window, _rows_of_grid(Grid(PATTERNS["blocks"], 0, 0), window, device), tiles)
    output = torch.empty(batch, filters, side, side, device=device, dtype=dtype, memory_format=last)
    gradient = torch.randn_like(output)
    folded = job.fold(gradient)
    return {
        "forward": lambda: job.forward(input, weight, None, output),
        "fold": lambda: job.fold(gradient),
        "weight gradient": lambda: job.weight_gradient(input, folded, weight),
        "input gradient": lambda: job.input_gradient(folded, weight, torch.empty_like(input)),
    }


def launch_all(cases: list[tuple[str, str, Tiles]], batch: int) -> None:
    """Launch everything once, which fills Triton's cache."""
    for shape, dtype, tiles in cases:
        times_of(shape, dtype, batch, tiles, lambda launch: launch() is None)


def times_of(
    shape: str, dtype: str, batch: int, tiles: Tiles, measure: Callable[[Callable[[], object]], float]
) -> dict[str, float]:
    """Return what each program was measured to take; nothing of those that do not fit the device."""
    found = {}
    try:
        for name, launch in programs(shape, DTYPES[dtype], batch, tiles).items():
            found[name] = measure(launch)
    except triton.runtime.errors.OutOfResources as error:
        print(f"{shape} {dtype} {tuple(tiles)}: {error}", flush=True)
    return found


def microseconds(launch: Callable[[], object]) -> float:
    """Return the median of a program's time on the device."""
    return 1e3 * triton.testing.do_bench(launch, 2, 8, return_mode="median")


def main() -> None:
    """Print, for each shape, type and program, the tiles in the order of their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--processes", type=int, default=8)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "PyTorch sees no CUDA device here, and this measures nothing else\n")
    cases = [
        (shape, dtype, tiles)
        for shape in options.shapes.split(",")
        for dtype in DTYPES
        for tiles in candidates(*map(int, shape.split("-")[:2]))
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        shares = [(cases[number :: options.processes], options.batch) for number in range(options.processes)]
        pool.starmap(launch_all, shares)
    for (shape, dtype), group in itertools.groupby(cases, lambda case: case[:2]):
        by_program: dict[str, list[tuple[float, str]]] = {}
        for *_, tiles in group:
            for name, took in times_of(shape, dtype, options.batch, tiles, microseconds).items():
                by_program.setdefault(name, []).append((took, "x".join(map(str, tiles))))
        for name, taken in by_program.items():
            told = ", ".join(f"{tiles} {took:.1f}" for took, tiles in sorted(taken)[:4])
            print(f"{shape} {dtype} {name}: {told}, slowest {max(taken)[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
