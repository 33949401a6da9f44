"""Rounding errors of native kernels beside stock PyTorch's, both against the same step in double precision.

Where a network's float32 gradient is far from another float32 gradient of it, the step is badly conditioned if both are
as far from the double one, and a kernel is at fault if only its own is.

    python -m benchmarks.kernels.rounding layers     a convolution's output and gradients, by channels and kernel
    python -m benchmarks.kernels.rounding networks   a network's gradients: the worst parameter's error and all together
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common.side_by_side import table
from benchmarks.common.small_networks import UNet, resnet18, squeezenet, vgg
from stantune import Stan, accelerate_
from stantune.errors import StanWarning
from stantune.kernels.block.convolve import convolve
from stantune.kernels.library import WINOGRAD_SWITCH
from stantune.process.runtime import tune_process

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "SqueezeNet": squeezenet,
    "ResNet-18": resnet18,
    "VGG-13": vgg,
    "VGG-13 without norm": lambda: vgg(norm=False),
    "U-Net": UNet,
}
CHANNELS = (3, 16, 32, 64, 128, 256, 512)


def error_of(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the error over that of the exact values."""
    return float((found.double() - exact).norm() / exact.norm())


def passes(
    function: Callable[[Tensor, Tensor], Tensor], input: Tensor, weight: Tensor, gradient: Tensor
) -> list[Tensor]:
    """Return output, input's and weight's gradient."""
    input, weight = input.clone().requires_grad_(), weight.clone().requires_grad_()
    output = function(input, weight)
    return [output.detach(), *torch.autograd.grad(output, (input, weight), gradient)]


def of_layer(channels: int, kernel: int, side: int, batch: int = 4) -> tuple[list[float], list[float], list[float]]:
    """Return the errors of output and both gradients: stock's contiguous, stock's channels last, native."""
    torch.manual_seed(0)
    filters, pad = max(channels, 8), kernel // 2
    input = torch.randn(batch, channels, side, side).relu()
    weight = torch.randn(filters, channels, kernel, kernel) * (2 / (channels * kernel**2)) ** 0.5
    gradient = torch.randn(batch, filters, side, side)

    def stock(input: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(input, weight, None, 1, pad)

    def native(input: Tensor, weight: Tensor) -> Tensor:
        return convolve(input, weight, None, (1, 1), (pad,) * 4)

    exact = passes(stock, input.double(), weight.double(), gradient.double())
    last = [each.contiguous(memory_format=torch.channels_last) for each in (input, weight)]
    ways = (passes(stock, input, weight, gradient), passes(stock, *last, gradient), passes(native, *last, gradient))
    contiguous, channels_last, own = (
        [error_of(found, its) for found, its in zip(way, exact, strict=True)] for way in ways
    )
    return contiguous, channels_last, own


def by_layer() -> Iterator[Sequence[str]]:
    """Yield lines of stock's errors, and native ones over the contiguous ones of stock."""
    for kernel in (3, 5):
        for channels in CHANNELS:
            contiguous, last, own = of_layer(channels, kernel, 8 if channels > 128 else 16)
            yield (
                f"{kernel}x{kernel}",
                str(channels),
                *[f"{error:.1e}" for error in contiguous],
                *[f"{one / other:.1f}" for one, other in zip(last, contiguous, strict=True)],
                *[f"{one / other:.1f}" for one, other in zip(own, contiguous, strict=True)],
            )


def gradients(model: nn.Module, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a training step's loss by the parameters' names."""
    scores = model(images)
    loss = F.cross_entropy(scores, classes if scores.dim() == 2 else (images.mean(1) > 0).long())
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def of_network(build: Callable[[], nn.Module], batch: int, side: int, seed: int) -> dict[str, dict[str, float]]:
    """Return each parameter's errors, relative to its gradient's norm, of stock PyTorch and of native kernels."""
    torch.manual_seed(seed)
    model = build()
    images, classes = torch.randn(batch, 3, side, side), torch.arange(batch) % 10
    exact = gradients(copy.deepcopy(model).double(), images.double(), classes)
    stock = gradients(copy.deepcopy(model), images, classes)
    accelerate_(model, Stan(rate=1))
    native = gradients(model, images, classes)
    # A bias before batch norm has no gradient but rounding.
    counted = [name for name, its in exact.items() if its.norm() > 1e-9 * max(each.norm() for each in exact.values())]
    return {
        way: {name: error_of(found[name], exact[name]) for name in counted}
        for way, found in (("stock", stock), ("native", native))
    }


def by_network(seeds: int) -> Iterator[Sequence[str]]:
    """Yield lines of errors: the worst parameter's, and the median's."""
    for name, build in NETWORKS.items():
        for batch, side in ((2, 32), (2, 64), (16, 64)):
            found = [of_network(build, batch, side, seed) for seed in range(seeds)]
            cells = []
            for of in (max, statistics.median):
                for way in ("stock", "native"):
                    cells.append(f"{statistics.median(of(errors[way].values()) for errors in found):.1e}")
            yield (name, f"{batch} x {side}x{side}", *cells)


def main() -> None:
    """Print one of the tables, with and without minimal filtering."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("layers", "networks"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if WINOGRAD_SWITCH not in os.environ:  # it is read once in a process
        for setting in ("auto", "off"):
            print(f"\n{WINOGRAD_SWITCH}={setting}\n", flush=True)
            command = [sys.executable, *sys.orig_argv[1:]]
            subprocess.run(command, env={**os.environ, WINOGRAD_SWITCH: setting}, check=True)
        return
    tune_process(1)
    warnings.simplefilter("ignore", StanWarning)
    if options.what == "layers":
        ways = [f"{way}: {what}" for way in ("stock", "stock, channels last", "native") for what in ("y", "dx", "dw")]
        print(table(("kernel", "channels", *ways), list(by_layer())))
    else:
        heads = [f"{which}, {way}" for which in ("worst parameter", "median parameter") for way in ("stock", "native")]
        print(table(("network", "batch", *heads), list(by_network(options.seeds))))


if __name__ == "__main__":
    main()
