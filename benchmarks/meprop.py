"""meProp against ordinary back propagation: the backward pass and the step of a perceptron, and its errors on MNIST.

    python benchmarks/meprop.py [--threads 1,2] [--hidden 500,2048] [--top-k 80] [--rounds 25]
    python benchmarks/meprop.py --mnist [--seeds 0,1,2] [--hidden 500] [--top-k 80] [--iterations 12000]

The first prints medians of interleaved rounds: batch 100 of random images, 784 - hidden - 10, the plain side with
nn.Linear's own backward pass, fused Adam, tuned allocator; processor time with one thread, wall time with more. "limit"
is the ratio of the backward passes' multiply-adds, so what a form could gain at most. The second trains on all of MNIST
and prints the errors of test.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from stantune.images.nets.mlp import mlp
from stantune.images.problems import Problem, find
from stantune.runtime import tune_process
from stantune.seeds import derive
from stantune.training.train import run

BATCH = 100
INPUTS = 28 * 28
CLASSES = 10
STEPS = 5


def unified_mlp(hidden: int = 500, dropout: float = 0.0, top_k: int = 0) -> nn.Sequential:
    """Return `mlp` with the unified form of meProp."""
    network = mlp(hidden, dropout, top_k)
    network.fc1.unified = True
    return network


# What each side is called: the network, and whether it is given top_k.
FORMS: dict[str, tuple[Callable[..., nn.Sequential], bool]] = {
    "plain": (mlp, False),
    "per example": (mlp, True),
    "unified": (unified_mlp, True),
}


def multiply_adds(hidden: int, kept: int) -> int:
    """Return those of a backward pass: the images need no gradient, and the last layer is never sparsified."""
    return BATCH * (INPUTS * kept + 2 * hidden * CLASSES)


def clock() -> float:
    """Return seconds: of the processor with one thread, so that other programs do not count; else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def stepper(network: nn.Sequential) -> Callable[[], tuple[float, float]]:
    """Return a function that trains one step and returns the seconds of its backward pass and of all of it."""
    optimizer = find("mlp").solver.optimizer(network)
    images = torch.rand(BATCH, 1, 28, 28)
    labels = torch.randint(CLASSES, (BATCH,))

    def step() -> tuple[float, float]:
        began = clock()
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        back = clock()
        loss.backward()  # type: ignore[no-untyped-call]
        done = clock()
        optimizer.step()
        return done - back, clock() - began

    return step


def measure(hidden: int, top_k: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return each form's milliseconds (backward, step) in each round; a round takes every form in turn."""
    torch.manual_seed(0)
    steppers = {
        name: stepper(network(hidden, top_k=top_k if sparse else 0)) for name, (network, sparse) in FORMS.items()
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
    for number in range(rounds + 2):
        for name, step in steppers.items():
            step()
            taken = [step() for _ in range(STEPS)]
            if number >= 2:  # the first rounds warm up
                backward, whole = (statistics.median(column) * 1e3 for column in zip(*taken, strict=True))
                times[name].append((backward, whole))
    return times


def print_times(threads: list[int], sizes: list[int], top_k: int, rounds: int) -> None:
    """Print a Markdown table of backward passes and steps."""
    print(f"batch {BATCH}, top {top_k}, PyTorch {torch.__version__}, median of {rounds} rounds\n")
    print("| hidden | threads | form | ms backward | quartiles | times faster | limit | ms a step | times faster |")
    print("|---|---|---|---|---|---|---|---|---|")
    for hidden in sizes:
        for count in threads:
            torch.set_num_threads(count)
            times = measure(hidden, top_k, rounds)
            for name, values in times.items():
                backward, whole = zip(*values, strict=True)
                low, median, high = statistics.quantiles(backward, n=4)
                # Round by round, so that a drift of the machine's speed falls out.
                gains = [
                    statistics.median(
                        plain[part] / value[part] for plain, value in zip(times["plain"], values, strict=True)
                    )
                    for part in (0, 1)
                ]
                kept = min(top_k, hidden) if FORMS[name][1] else hidden
                limit = multiply_adds(hidden, hidden) / multiply_adds(hidden, kept)
                print(
                    f"| {hidden} | {count} | {name} | {median:.2f} | {low:.2f} … {high:.2f} | {gains[0]:.2f} "
                    f"| {limit:.1f} | {statistics.median(whole):.2f} | {gains[1]:.2f} |"
                )


def print_errors(seeds: list[int], hidden: int, top_k: int, iterations: int | None) -> None:
    """Train every form with every seed on all of MNIST; print a Markdown table of errors and times."""
    problem = find("mlp")
    length = iterations or problem.full_iterations or problem.iterations
    splits = problem.load(full=True)
    sides: dict[str, tuple[Problem, int]] = {
        name: (replace(problem, network=network), top_k if sparse else 0) for name, (network, sparse) in FORMS.items()
    }
    print(f"784 - {hidden} - 10 on MNIST, top {top_k}, {length} iterations, {torch.get_num_threads()} threads\n")
    print("| seed |" + "".join(f" {name}: error % |" for name in sides) + "".join(f" {name}: s |" for name in sides))
    print("|---" * (1 + 2 * len(sides)) + "|")
    rows: list[list[float]] = []
    for seed in seeds:
        outcomes = [
            run(
                side,
                {"hidden": hidden, "top_k": kept},
                None,
                0,
                length,
                splits=splits,
                seed=derive("train", seed),
                evaluate=("test",),
            )
            for side, kept in sides.values()
        ]
        rows.append(
            [outcome.metrics["test error"] for outcome in outcomes]
            + [outcome.cost.exact_seconds for outcome in outcomes]
        )
        print_row(str(seed), rows[-1])
    print_row("mean", [statistics.mean(column) for column in zip(*rows, strict=True)])


def print_row(name: str, values: list[float]) -> None:
    """Print a row of errors and, behind them, as many times."""
    half = len(values) // 2
    cells = [f"{error:.2f}" for error in values[:half]] + [f"{seconds:.0f}" for seconds in values[half:]]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def integers(text: str) -> list[int]:
    """Parse "1,2"."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", action="store_true", help="train on MNIST, on the first of --threads")
    parser.add_argument("--hidden", type=integers, help="by default 500,2048, with --mnist 500")
    parser.add_argument("--top-k", type=int, default=80)
    parser.add_argument("--threads", type=integers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seeds", type=integers, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, help="by default the problem's own")
    arguments = parser.parse_args()
    tune_process(arguments.threads[0])
    if arguments.mnist:
        print_errors(arguments.seeds, (arguments.hidden or [500])[0], arguments.top_k, arguments.iterations)
    else:
        print_times(arguments.threads, arguments.hidden or [500, 2048], arguments.top_k, arguments.rounds)


if __name__ == "__main__":
    main()
