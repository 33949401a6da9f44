"""When reduced iterations have larger gradients than exact ones: by size of the layers' outputs, batch, batch norm.

A skipped entry's gradient flows to the entry that it copies. On small outputs a few entries collect all of it, and
batch norm behind them divides by the deviation of those few. What it prints decided `stan.entries.PERIODS`.

    python -m benchmarks.trainings.small_maps sizes     norms of gradients, three layers of one size: reduced over exact
    python -m benchmarks.trainings.small_maps networks  the same of whole networks, by how many periods a layer has
    python -m benchmarks.trainings.small_maps training  the loss of 30 steps, likewise, beside three seeds of exact ones
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common.side_by_side import table
from benchmarks.common.small_networks import UNet, resnet18, vgg
from stantune import Stan, accelerate_
from stantune.errors import StanWarning
from stantune.images.problem.built_in import Splits, find
from stantune.process.runtime import tune_process
from stantune.stan.entries import entries

NETWORKS: dict[str, Callable[[], nn.Module]] = {"ResNet-18": resnet18, "VGG-13": vgg, "U-Net": UNet}
RATES = (0.5, 0.25)
PERIODS = (1, 2, 3, 4)
STEPS = 30


@functools.cache
def _splits() -> Splits:
    return find("cq").load(full=True)


def batch_of(size: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images of CIFAR-10, (size, 3, side, side), and their classes, (size,)."""
    splits = _splits()
    chosen = torch.randint(len(splits.train.targets), (size,), generator=torch.Generator().manual_seed(seed))
    images = splits.normaliser(splits.train.inputs[chosen]).contiguous()
    images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return (images - images.mean()) / images.std(), splits.train.targets[chosen]


def loss_of(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return the loss; of a network with an output for each pixel, whether it tells bright pixels from dark ones."""
    scores = model(images)
    return F.cross_entropy(scores, classes if scores.dim() == 2 else (images.mean(1) > 0).long())


def _norm(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    gradients = torch.autograd.grad(loss_of(model, images, classes), list(model.parameters()))
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def ratios(
    build: Callable[[], nn.Module], rate: float, size: int, side: int, seeds: int, layers: tuple[str, ...] = ("*",)
) -> list[float]:
    """Return the norms of reduced gradients over exact ones, of several networks, batches and draws, in order."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = build()
        images, classes = batch_of(size, side, seed)
        exact = _norm(model, images, classes)
        handle = accelerate_(model, Stan(rate=rate, period=None, seed=seed, layers=layers))
        for _ in range(4):
            found.append(_norm(model, images, classes) / exact)
            handle.step()
    return sorted(found)


def chain(side: int, norm: bool) -> nn.Module:
    """Return three layers of one output size and what makes images and classes of them."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(side)]
    for _ in range(3):
        layers += [nn.Conv2d(16, 16, 3, padding=1), *([nn.BatchNorm2d(16)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def by_size(seeds: int) -> Iterator[Sequence[str]]:
    """Yield lines of norms by size of the outputs: median and largest."""
    for norm in (True, False):
        layers = tuple(str(place) for place, layer in enumerate(chain(8, norm)) if isinstance(layer, nn.Conv2d))[1:]
        for side in range(2, 9):
            for size in (1, 2, 4, 16):
                cells = []
                for rate in RATES:
                    with mock.patch.object(entries, "PERIODS", 1):
                        found = ratios(functools.partial(chain, side, norm), rate, size, 32, seeds, layers)
                    cells += [f"{statistics.median(found):.2f}", f"{found[-1]:.2f}"]
                yield ("yes" if norm else "no", f"{side}x{side}", str(size), *cells)


def by_network(seeds: int) -> Iterator[Sequence[str]]:
    """Yield lines of norms by network and by how many periods a layer must have: median and largest."""
    for name, build in NETWORKS.items():
        for size in (2, 16):
            for periods in PERIODS:
                cells = []
                for rate in RATES:
                    with mock.patch.object(entries, "PERIODS", periods):
                        found = ratios(build, rate, size, 64, seeds)
                    cells += [f"{statistics.median(found):.2f}", f"{found[-1]:.2f}"]
                yield (name, str(size), str(periods), *cells)


def trained(build: Callable[[], nn.Module], stan: Stan | None, size: int, seed: int) -> float:
    """Return the mean loss of the last five of STEPS steps."""
    torch.manual_seed(0)
    model = build()
    handle = None if stan is None else accelerate_(model, stan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for step in range(STEPS):
        loss = loss_of(model, *batch_of(size, 64, seed * STEPS + step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        if handle is not None:
            handle.step()
    return statistics.fmean(losses[-5:])


def by_training(seeds: int) -> Iterator[Sequence[str]]:
    """Yield lines of losses: exact, and by how many periods a layer must have."""
    for name, build in NETWORKS.items():
        for size in (2, 16):
            exact = [trained(build, None, size, seed) for seed in range(seeds)]
            yield (name, str(size), "exact", *[f"{loss:.3f}" for loss in exact], "")
            for rate in RATES:
                for periods in PERIODS:
                    with mock.patch.object(entries, "PERIODS", periods):
                        stan = Stan(rate=rate, period=None)
                        losses = [trained(build, copy.deepcopy(stan), size, seed) for seed in range(seeds)]
                    yield (
                        name,
                        str(size),
                        f"{rate}, {periods} periods",
                        *[f"{loss:.3f}" for loss in losses],
                        f"{statistics.fmean(losses) - statistics.fmean(exact):+.3f}",
                    )


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sizes", "networks", "training"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    tune_process(1)
    warnings.simplefilter("ignore", StanWarning)
    of_rates = [f"{what} at {rate}" for rate in RATES for what in ("median", "largest")]
    if options.what == "sizes":
        print(table(("batch norm", "outputs", "batch", *of_rates), list(by_size(options.seeds))))
    elif options.what == "networks":
        print(table(("network", "batch", "periods", *of_rates), list(by_network(options.seeds))))
    else:
        heads = ("network", "batch", "entries", *[f"seed {seed}" for seed in range(options.seeds)], "above exact")
        print(table(heads, list(by_training(options.seeds))))


if __name__ == "__main__":
    main()
