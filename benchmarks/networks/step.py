"""A whole training step under STAN against stock PyTorch, in its best and in its default setting.

    python -m benchmarks.networks.step [--networks lenet,cq] [--threads 1,2] [--rounds 15] [--compile] [--plot step.png]
    python -m benchmarks.networks.step --networks examples/fashion_residual.py:problem


Best setting: channels_last memory, the same threads, the fused optimizer, an allocator that keeps its buffers. Default
setting: none of these but the threads. With --compile stock in its best setting is compiled as well, as trainings under
`stantune train --compile` are. Images are random. Each side has a process of its own; peak is its memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.common.side_by_side import Side, interleave, plot, setting, several, table, thread_count
from stantune import Stan, accelerate_
from stantune.images.problem.built_in import BUILT_IN, find
from stantune.kernels.library import plain_pytorch

SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
STOCK = "stock, best setting"


def stepper(network: str, stan: Stan | None, best: bool = True, compiled: bool = False) -> Callable[[], None]:
    """Return a function that trains one step of a problem's network on a batch of random images."""
    problem = find(network)
    order = torch.channels_last if best else torch.contiguous_format
    torch.manual_seed(0)
    model = problem.build({}).to(memory_format=order)  # type: ignore[call-overload]
    optimizer = problem.solver.optimizer(model)
    if not best:
        for group in optimizer.param_groups:
            group["fused"] = None
    handle = None if stan is None else accelerate_(model, stan)
    forward = torch.compile(model, dynamic=False) if compiled else model
    images = torch.randn(problem.batch_size, *SHAPES[str(problem.data)]).to(memory_format=order)
    labels = torch.randint(10, (problem.batch_size,))

    def step() -> None:
        loss = F.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if handle is not None:
            handle.step()

    def plain() -> None:
        with plain_pytorch():
            step()

    return plain if stan is None else step


def sides(network: str, compiled: bool = False) -> list[Side]:
    """Return what is compared: an mlp has no convolution."""
    found = [
        Side("stock, default setting", partial(stepper, network, None, best=False), tuned=False),
        Side(STOCK, partial(stepper, network, None)),
    ]
    if compiled:
        found.append(Side("stock, best setting, compiled", partial(stepper, network, None, compiled=True)))
    if network != "mlp":
        own = find(network).stan_layers
        found += [
            Side("kept 1", partial(stepper, network, Stan(rate=1))),
            Side("kept 1/2", partial(stepper, network, Stan(rate=0.5, period=None))),
            Side("kept 1/4", partial(stepper, network, Stan(rate=0.25, period=None))),
        ]
        if own != ("*",):
            found.insert(
                3 + compiled,
                Side(f"kept 1/2 in {', '.join(own)}", partial(stepper, network, Stan(layers=own, period=None))),
            )
    return found


def main() -> None:
    """Print a Markdown table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(BUILT_IN))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=several, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    ratios: dict[str, dict[str, float]] = {}
    for threads in map(int, arguments.threads.split(",")):
        rows = []
        for network in arguments.networks.split(","):
            times = interleave(sides(network, arguments.compile), threads, arguments.rounds)
            for name, found in times.items():
                ratio = found.faster_than(times[STOCK])
                low, high = found.quartiles
                cells = f"{found.median:.1f}", f"{low:.1f} … {high:.1f}", f"{ratio:.2f}", f"{found.peak:.0f}"
                rows.append((find(network).name, name, *cells))
                ratios.setdefault(f"{find(network).name}, {thread_count(threads)}", {})[name] = ratio
        print(f"\nbatch 100, {setting(threads)}, median of {arguments.rounds} rounds\n")
        print(table(("network", "step", "ms", "quartiles", "times faster", "peak MiB"), rows), flush=True)
    if arguments.plot is not None:
        plot(arguments.plot, "A training step", ratios)


if __name__ == "__main__":
    main()
