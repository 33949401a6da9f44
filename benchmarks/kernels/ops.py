"""Each native kernel, forward and backward, against PyTorch's operators and against the machine's limits.

    python -m benchmarks.kernels.ops [--threads 1,2] [--rounds 15] [--only conv2] [--plot ops.png]

PyTorch in its best setting: channels_last, the same threads, buffers kept. "of the limit": of convolutions, their
multiply-adds at the rate of a large matrix product; of the others, the bytes that must be read and written at the rate
of a copy that does not fit into the caches. A time below that limit stays in the caches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common.side_by_side import Side, Times, interleave, plot, setting, several, table, thread_count
from stantune.images.nets.caffe import CaffeBatchNorm2d, WithinChannelLRN
from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import plain_pytorch
from stantune.stan.entries.entries import PLANE, EntryMatrix, Grid
from stantune.stan.entries.lists import lists_of

BATCH = 100
NOTHING = Follow()
KEPT = ("1", "1/2", "1/4", "1/4 anywhere", "1/8 anywhere")
SHARE = {"1": 1.0, "1/2": 0.5, "1/4": 0.25, "1/4 anywhere": 0.25, "1/8 anywhere": 0.125}
STOCK = "stock"


@dataclass(frozen=True)
class Convolution:
    """A layer: its sizes, whether its input needs a gradient, and what follows it."""

    channels: int
    filters: int
    size: int
    padding: int
    first: bool
    follow: Follow = NOTHING

    @property
    def side(self) -> int:
        """Rows and columns of the output; all kernels are 5x5."""
        return self.size + 2 * self.padding - 4

    @property
    def products(self) -> float:
        """Multiply-adds of a forward and a backward pass with every entry."""
        each = BATCH * self.side**2 * self.filters * self.channels * 25
        return float(each * (2 if self.first else 3))


MAXIMUM, AVERAGE = (Follow(pool, (3, 3), (2, 2), True, True) for pool in ("max", "average"))
CONVOLUTIONS = {
    "lenet conv1": Convolution(1, 20, 28, 0, True),
    "lenet conv2": Convolution(20, 50, 12, 0, False),
    "cifar conv1": Convolution(3, 32, 32, 2, True),
    "cifar conv2": Convolution(32, 32, 16, 2, False),
    "cifar conv3": Convolution(32, 64, 8, 2, False),
    "cifar conv1, max pool, ReLU": Convolution(3, 32, 32, 2, True, MAXIMUM),
    "cifar conv2, ReLU, average pool": Convolution(32, 32, 16, 2, False, AVERAGE),
    "cifar conv3, ReLU, average pool": Convolution(32, 64, 8, 2, False, AVERAGE),
}
NORMS: dict[str, Callable[[], nn.Module]] = {
    "LRN 3x3, power 0.75": WithinChannelLRN,
    "LRN 3x3, power 1.3": partial(WithinChannelLRN, power=1.3),
    "Caffe batch norm": partial(CaffeBatchNorm2d, 32),
}


def both_passes(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], None]:
    """Return a function that goes forward and backward."""
    gradient = torch.randn_like(function(*inputs))
    wanted = [tensor for tensor in inputs if tensor.requires_grad]

    def work() -> None:
        torch.autograd.grad(function(*inputs), wanted, gradient)

    return work


def of_convolution(layer: Convolution, kept: str | None) -> Callable[[], None]:
    """Return the work on a layer, PyTorch's where `kept` is None."""
    torch.manual_seed(0)
    input = torch.randn(BATCH, layer.channels, layer.size, layer.size).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(layer.filters, layer.channels, 5, 5).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(layer.filters)
    for tensor in (weight, bias) if layer.first else (input, weight, bias):
        tensor.requires_grad_()
    if kept is None:
        return both_passes(partial(stock, layer), input, weight, bias)
    lists = None
    if kept.endswith("anywhere"):
        entries = torch.rand(BATCH, layer.side, layer.side) < SHARE[kept]
        entries[:, 0, 0] = True
        lists = lists_of(EntryMatrix(entries), layer.side, layer.side)
    elif kept != "1":
        lists = lists_of(Grid(PLANE["columns" if kept == "1/2" else "blocks"], 0, 0), layer.side, layer.side)
    around = (layer.padding,) * 4
    return both_passes(lambda *given: convolve(*given, (1, 1), around, lists, layer.follow), input, weight, bias)


def stock(layer: Convolution, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Do what a layer does with PyTorch's operators."""
    output = F.conv2d(input, weight, bias, padding=layer.padding)
    if layer.follow.pool == "max":
        return F.max_pool2d(output, 3, 2, ceil_mode=True).relu()
    return F.avg_pool2d(output.relu(), 3, 2, ceil_mode=True) if layer.follow.pool == "average" else output


def of_norm(make: Callable[[], nn.Module], native: bool) -> Callable[[], None]:
    """Return the work of a normalisation after the first block of the CIFAR-10 networks."""
    module = make()
    input = torch.randn(BATCH, 32, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    if native:
        return both_passes(module, input)

    def plain(input: Tensor) -> Tensor:
        with plain_pytorch():
            return module(input)  # type: ignore[no-any-return]

    return both_passes(plain, input)


def product() -> Callable[[], None]:
    """Return the work whose rate counts as the machine's: 1024 x 1024 x 1024 multiply-adds."""
    one, other, out = (torch.randn(1024, 1024) for _ in range(3))

    def work() -> None:
        torch.mm(one, other, out=out)

    return work


def copying() -> Callable[[], None]:
    """Return the work whose rate counts as the memory's: 128 MiB read, 128 MiB written."""
    source, target = torch.randn(2**25), torch.empty(2**25)

    def work() -> None:
        target.copy_(source)

    return work


def rows_of(name: str, times: Mapping[str, Times], limits: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Return the rows of an operation; `limits` are in milliseconds."""
    for kept, found in times.items():
        low, high = found.quartiles
        ratio, share = found.faster_than(times[STOCK]), limits[kept] / found.median
        yield name, kept, f"{found.median:.2f}", f"{low:.2f} … {high:.2f}", f"{ratio:.2f}", f"{share:.0%}"


def main() -> None:
    """Print a Markdown table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=several, default=15)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    ratios: dict[str, dict[str, float]] = {}
    for threads in map(int, arguments.threads.split(",")):
        size = thread_count(threads)
        limits = interleave([Side("product", product), Side("copy", copying)], threads, arguments.rounds)
        products, bytes_ = 1024**3 / limits["product"].median, 2**28 / limits["copy"].median
        print(f"\nbatch {BATCH}, {setting(threads)}, ", end="")
        print(f"median of {arguments.rounds} rounds; matrix product {products / 1e6:.0f} G multiply-adds/s, ", end="")
        print(f"copy {bytes_ / 1e6:.0f} GB/s\n")
        rows: list[tuple[str, ...]] = []
        for name, layer in CONVOLUTIONS.items():
            if arguments.only in name:
                sides = [Side(STOCK, partial(of_convolution, layer, None))]
                sides += [Side(kept, partial(of_convolution, layer, kept)) for kept in KEPT]
                times = interleave(sides, threads, arguments.rounds)
                limit_of = {kept: layer.products * SHARE.get(kept, 1.0) / products for kept in times}
                rows += rows_of(name, times, limit_of)
                ratios[f"{name}, {size}"] = {kept: found.faster_than(times[STOCK]) for kept, found in times.items()}
        for name, make in NORMS.items():
            if arguments.only in name:
                sides = [Side(STOCK, partial(of_norm, make, False)), Side("1", partial(of_norm, make, True))]
                times = interleave(sides, threads, arguments.rounds)
                # Forward: input to output. Backward: input and gradient to gradient.
                rows += rows_of(name, times, dict.fromkeys(times, 5 * 4 * BATCH * 32 * 16 * 16 / bytes_))
                ratios[f"{name}, {size}"] = {kept: found.faster_than(times[STOCK]) for kept, found in times.items()}
        print(table(("operation", "kept", "ms", "quartiles", "times faster", "of the limit"), rows), flush=True)
    if arguments.plot is not None:
        plot(arguments.plot, "Forward and backward pass", ratios)


if __name__ == "__main__":
    main()
