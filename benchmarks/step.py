"""A whole training step under STAN against stock PyTorch in its best setting, interleaved: medians and spread.

    python benchmarks/step.py [--networks lenet,cq] [--threads 2] [--rounds 15]

Both sides use channels_last memory, the same threads, the fused optimizer and the tuned allocator; images are random.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from stantune import Stan, accelerate_
from stantune.problems import BUILT_IN, Problem
from stantune.runtime import tune_process

SIDES = {
    "exact": None,
    "1/2 rows": Stan(rate=0.5, pattern="rows", period=None),
    "1/2 columns": Stan(rate=0.5, pattern="columns", period=None),
    "1/4 blocks": Stan(rate=0.25, period=None),
}
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
STEPS = 3


def stepper(problem: Problem, stan: Stan | None) -> Callable[[], None]:
    """Return a function that trains one step of the problem's network on a batch of random images."""
    torch.manual_seed(0)
    model = problem.build({}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = problem.solver.optimizer(model)
    handle = None if stan is None else accelerate_(model, stan)
    images = torch.randn(problem.batch_size, *SHAPES[str(problem.data)]).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (problem.batch_size,))

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if handle is not None:
            handle.step()

    return step


def measure(problem: Problem, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of a step for each side; a round takes every side in turn."""
    steppers = {name: stepper(problem, stan) for name, stan in SIDES.items()}
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(rounds + 2):
        for name, step in steppers.items():
            step()
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            if number >= 2:  # the first rounds warm up
                times[name].append((time.perf_counter() - began) / STEPS * 1e3)
    return times


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="lenet,cq,alexlrn,alexbn")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    threads = tune_process(arguments.threads)
    print(f"batch 100, {threads} threads, PyTorch {torch.__version__}, median of {arguments.rounds} rounds\n")
    print("| network | entries | ms a step | quartiles | times faster |")
    print("|---|---|---|---|---|")
    for network in arguments.networks.split(","):
        times = measure(BUILT_IN[network], arguments.rounds)
        for name, values in times.items():
            low, median, high = statistics.quantiles(values, n=4)
            # Round by round, so that a drift of the machine's speed falls out.
            ratio = statistics.median(exact / value for exact, value in zip(times["exact"], values, strict=True))
            print(f"| {network} | {name} | {median:.1f} | {low:.1f} … {high:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
