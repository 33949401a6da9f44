"""Native convolutions against PyTorch's over random shapes, and the figures of the rule that chooses between them.

    python -m benchmarks.kernels.shapes --seconds 600 [--seed 0] [--out benchmarks/results/shapes.jsonl]
    python -m benchmarks.kernels.shapes --fit benchmarks/results/shapes.jsonl

The first measures, one thread, both in turns, forward and backward pass, the fastest of each, and adds a line for each
shape to the file. The second prints what `stantune.kernels.pays` multiplies its terms by, and how well the rule
chooses: times under it, under native kernels alone and under the faster of both, as shares of PyTorch's.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from benchmarks.common.kept import RESULTS
from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.kernels.pays import Work, filtered, native_terms, pays, stock_terms

CHANNELS = (1, 3, 3, 8, 16, 24, 32, 48, 64, 64, 96, 128, 128, 192, 256, 256, 384, 512, 512, 1024)
FILTERS = CHANNELS[3:]
SIDES = (1, 2, 2, 4, 4, 7, 8, 8, 14, 16, 16, 28, 32, 32, 56, 64)
BATCHES = (1, 2, 4, 4, 16, 16, 32, 64, 100)
PRODUCTS = (2e5, 4e8)  # multiply-adds of a forward pass, the fewest and the most


def drawn(rng: random.Random) -> tuple[Work, int] | None:
    """Return a random shape and its padding, None where it is out of bounds."""
    channels, filters, side, batch = (rng.choice(each) for each in (CHANNELS, FILTERS, SIDES, BATCHES))
    kernel, stride = rng.choice((1, 1, 3, 3, 3, 3, 5, 7)), rng.choice((1, 1, 1, 2))
    padding = rng.choice((kernel // 2, kernel // 2, kernel // 2, 0))
    if side + 2 * padding < kernel or (kernel == 7 and channels > 64):
        return None
    if kernel == 1 and stride == 2 and channels <= 3:
        return None  # PyTorch 2.13 writes beyond its memory: the weights' gradient of few channels, channels last
    out = (side + 2 * padding - kernel) // stride + 1
    products = batch * channels * filters * kernel**2 * out**2
    work = Work(
        batch, channels, filters, (kernel,) * 2, (stride,) * 2, (side,) * 2, (out,) * 2, rng.random() < 0.5
    )  # fmt: skip
    return (work, padding) if PRODUCTS[0] <= products <= PRODUCTS[1] else None


def timed(work: Work, padding: int, clock: Callable[[], float] = time.thread_time) -> tuple[float, float]:
    """Return PyTorch's and native code's milliseconds of both passes, on this thread alone."""
    order = torch.contiguous_format if work.planes else torch.channels_last
    input = torch.randn(work.batch, work.channels, *work.input).contiguous(memory_format=order)
    weight = torch.randn(work.filters, work.channels, *work.kernel).contiguous(memory_format=order).requires_grad_()
    wanted = [weight] if work.channels <= 3 else [input.requires_grad_(), weight]
    sides: tuple[Callable[[], Tensor], ...] = (
        lambda: F.conv2d(input, weight, None, work.stride, padding),
        lambda: convolve(input, weight, None, work.stride, (padding,) * 4),
    )
    gradient = torch.randn_like(sides[0]())
    seconds: tuple[list[float], list[float]] = ([], [])
    rounds = 40
    while len(seconds[1]) < rounds:
        for side, taken in zip(sides, seconds, strict=True):
            began = clock()
            torch.autograd.grad(side(), wanted, gradient)
            taken.append(clock() - began)
        rounds = max(6, min(rounds, int(0.12 / max(min(seconds[0]), 1e-5))))
    return min(seconds[0]) * 1e3, min(seconds[1]) * 1e3


def fitted(terms: Sequence[Sequence[float]], times: Sequence[float]) -> np.ndarray[Any, Any]:
    """Return what multiplies each term, none below 0, so that relative errors are small and odd ones count less."""
    matrix, target = np.array(terms), np.array(times)
    weights = 1 / target
    for _ in range(20):
        found, _ = nnls(matrix * weights[:, None], target * weights)
        weights = 1 / target / np.sqrt(np.maximum(np.abs(matrix @ found / target - 1), 0.05))
    return found  # type: ignore[no-any-return]


def report(lines: Sequence[dict[str, Any]]) -> str:
    """Return the figures, and what the rule in use makes of the shapes."""
    works = [(Work(*(tuple(v) if isinstance(v, list) else v for v in line["work"])), line) for line in lines]
    groups = {
        "FILTERED": [(native_terms(w), line["native"]) for w, line in works if filtered(w)],
        "STOCK": [(stock_terms(w), line["stock"]) for w, line in works if filtered(w)],
    }
    text = [f"{len(works)} shapes"]
    for name, group in groups.items():
        terms, times = [each[0] for each in group], [each[1] for each in group]
        found = fitted(terms, times)
        off = np.abs(np.array(terms) @ found / np.array(times) - 1)
        figures = ", ".join(f"{each:.3g}" for each in found)
        text.append(
            f"{name} = ({figures})  # median error {np.median(off):.0%}, of nine in ten {np.quantile(off, 0.9):.0%}"
        )
    for planes in (False, True):
        some = [(w, line) for w, line in works if w.planes is planes]
        stock, native = (np.array([line[side] for _, line in some]) for side in ("stock", "native"))
        chosen = np.where([pays(w, Follow()) for w, _ in some], native, stock)
        ratios = chosen / stock
        text.append(
            f"{'contiguous' if planes else 'channels last'}, geometric means of times over PyTorch's: rule "
            f"{np.exp(np.log(ratios).mean()):.3f}, native alone {np.exp(np.log(native / stock).mean()):.3f}, "
            f"the faster of both {np.exp(np.log(np.minimum(native, stock) / stock).mean()):.3f}; under the rule "
            f"{(ratios > 1.03).mean():.1%} of the shapes are slower by over 3 %, the worst {ratios.max():.2f}"
        )
        for name, left in (
            ("1x1", [w.kernel == (1, 1) for w, _ in some]),
            ("strided", [w.stride[0] > 1 for w, _ in some]),
        ):
            text.append(f"  {name} alone, all native: {np.exp(np.log(native[left] / stock[left]).mean()):.3f}")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "shapes.jsonl")
    parser.add_argument("--fit", type=Path, help="only print the figures that a file of measurements gives")
    options = parser.parse_args()
    if options.fit is None:
        torch.set_num_threads(1)
        rng, until = random.Random(options.seed), time.monotonic() + options.seconds
        options.out.parent.mkdir(exist_ok=True)
        with options.out.open("a") as file:
            while time.monotonic() < until:
                shape = drawn(rng)
                if shape is None:
                    continue
                stock, native = timed(*shape)
                file.write(json.dumps({"work": shape[0], "padding": shape[1], "stock": stock, "native": native}) + "\n")
                file.flush()
    print(report([json.loads(line) for line in (options.fit or options.out).read_text().splitlines()]))


if __name__ == "__main__":
    main()
