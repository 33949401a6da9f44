"""Training steps on a CUDA device under STAN against stock PyTorch: the built-in networks and a ResNet-18 for 32x32.

    python -m benchmarks.networks.gpu [--networks cq,resnet18] [--types fp32,bf16] [--batch 128] [--compile] [--graphs]

Stock is in its best setting: channels_last memory, cudnn.benchmark, the fused optimizer, tf32 in convolutions. Under
STAN every iteration is reduced. All sides of a network take turns on the same device, round by round; images are
random. With --compile, stock is compiled. With --graphs, every side is replayed from CUDA graphs, and STAN's offsets
come in 16 sets. What was chosen for each shape is told below the tables.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.side_by_side import Times, table
from benchmarks.common.small_networks import SHAPES, resnet18_for_32
from stantune import Stan, accelerate_
from stantune.images.problem.built_in import BUILT_IN
from stantune.kernels.cuda.ways import choices, cuda_path
from stantune.stan.graphs import GraphedStep
from stantune.stan.planning.timing import clock_for

STOCK = "stock"
KEPT = {"kept 1/2": Stan(rate=0.5, period=None), "kept 1/4": Stan(rate=0.25, period=None)}
TYPES = {"fp32": None, "bf16": torch.bfloat16}
REPEATS = 10  # steps in a row between two looks at the clock
SETS = 16  # of offsets, where steps are replayed


def stepper(network: str, batch: int, kind: str, stan: Stan | None, compiled: bool, graphs: bool) -> Callable[[], None]:
    """Return a function that trains one step of a network on random images, without waiting for it."""
    torch.manual_seed(0)
    last, device = torch.channels_last, torch.device("cuda")
    if network == "resnet18":
        model, shape = resnet18_for_32(), (3, 32, 32)
    else:
        model, shape = BUILT_IN[network].build({}), SHAPES[str(BUILT_IN[network].data)]
    model = model.to(device, memory_format=last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True)
    handle = None if stan is None else accelerate_(model, replace(stan, offset_sets=SETS if graphs else None))
    forward = torch.compile(model) if compiled and stan is None else model
    images = torch.randn(batch, *shape, device=device).contiguous(memory_format=last)
    labels = torch.randint(10, (batch,), device=device)
    dtype = TYPES[kind]

    def once(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with contextlib.nullcontext() if dtype is None else torch.autocast("cuda", dtype):
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    do = GraphedStep(model, once) if graphs else once

    def step() -> None:
        do(images, labels)
        if handle is not None:
            handle.step()

    return step


def interleave(sides: dict[str, Callable[[], None]], warm_up: int, rounds: int) -> dict[str, Times]:
    """Have every side do REPEATS steps in turn, round by round; those that warm up do not count."""
    clock = clock_for(torch.device("cuda"))
    times = {name: Times() for name in sides}
    for number in range(warm_up + rounds):
        for name, step in sides.items():
            began = clock()
            for _ in range(REPEATS):
                step()
            took = (clock() - began) / REPEATS * 1e3
            if number >= warm_up:
                times[name].milliseconds.append(took)
    return times


def main() -> None:
    """Print a Markdown table for each type, and what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = [name for name in BUILT_IN if name != "mlp"]  # which has no convolution
    parser.add_argument("--networks", default=",".join([*networks, "resnet18"]))
    parser.add_argument("--types", default="fp32,bf16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--graphs", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(
            2,
            "PyTorch sees no CUDA device here, and this measures nothing else; benchmarks.networks.step is for CPUs\n",
        )
    torch.backends.cudnn.benchmark = True
    # Each set of offsets is to come twice before it is replayed.
    warm_up = 12 if arguments.graphs else 3
    for kind in arguments.types.split(","):
        rows = []
        for network in arguments.networks.split(","):
            make = partial(stepper, network, arguments.batch, kind, compiled=arguments.compile, graphs=arguments.graphs)
            times = interleave(
                {STOCK: make(None), **{name: make(stan) for name, stan in KEPT.items()}}, warm_up, arguments.rounds
            )
            for name, found in times.items():
                low, high = found.quartiles
                ratio = found.faster_than(times[STOCK])
                rows.append((network, name, f"{found.median:.2f}", f"{low:.2f} … {high:.2f}", f"{ratio:.2f}"))
        print(
            f"\n{kind}, batch {arguments.batch}, {torch.cuda.get_device_name()}, PyTorch {torch.__version__}, ", end=""
        )
        print(f"median of {arguments.rounds} rounds; reduced by {' or '.join(cuda_path().ways)}\n")
        print(table(("network", "step", "ms", "quartiles", "times faster"), rows), flush=True)
    chosen = [
        (
            choice.what,
            choice.way,
            *(f"{1e3 * choice.seconds[way]:.3f}" if choice.seconds else "" for way in ("cudnn", "triton")),
        )
        for choice in choices()
    ]
    print(f"\n{table(('layer, forward and backward', 'taken', 'cudnn, ms', 'triton, ms'), chosen)}")


if __name__ == "__main__":
    main()
