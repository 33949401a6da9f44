"""How fast two threads train beside another program, by how they wait for one another.

    python -m benchmarks.overhead.waiting

Exact iterations of `lenet` with native kernels, a second, each way in a process of its own, in turns: on the idle
machine, and beside a program that keeps one core busy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = "while True: pass"
# Threads, and what the environment says of how they wait.
WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "two threads": (2, {}),
    "two, `GOMP_SPINCOUNT=10000`": (2, {"GOMP_SPINCOUNT": "10000"}),
    "two, `GOMP_SPINCOUNT=1000`": (2, {"GOMP_SPINCOUNT": "1000"}),
    "two, `OMP_WAIT_POLICY=passive`": (2, {"OMP_WAIT_POLICY": "passive"}),
    "one thread": (1, {}),
}


def trained(threads: int, seconds: float) -> float:
    """Return the iterations a second of this process."""
    import torch

    from stantune.images.problem.built_in import find
    from stantune.process.runtime import tune_process
    from stantune.stan.config import Stan
    from stantune.stan.surgery import accelerate_

    tune_process(threads)
    torch.manual_seed(0)
    model = find("lenet").network()
    accelerate_(model, Stan(rate=1))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))

    def iteration() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(20):
        iteration()
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        iteration()
        count += 1
    return count / (time.perf_counter() - begun)


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    """Have another program keep a core busy meanwhile."""
    if not busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BUSY]) as other:
        try:
            yield
        finally:
            other.kill()


def rate_of(threads: int, environment: dict[str, str], seconds: float) -> float:
    """Return the iterations a second of a process in this environment."""
    command = [sys.executable, "-m", __spec__.name, "--threads", str(threads), "--seconds", str(seconds)]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    return float(subprocess.run(command, env=own | environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table; in a process of one way its number alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="be the process of one way")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.threads is not None:
        print(trained(given.threads, given.seconds))
        return
    print("| how they wait | idle | beside a busy program |")
    print("|---|---|---|")
    found: dict[bool, dict[str, list[float]]] = {busy: {way: [] for way in WAYS} for busy in (False, True)}
    for _ in range(given.rounds):
        for busy in (False, True):
            with beside(busy):
                for way, (threads, environment) in WAYS.items():
                    found[busy][way].append(rate_of(threads, environment, given.seconds))
    for way in WAYS:
        cells = [
            f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
            for rates in (found[busy][way] for busy in (False, True))
        ]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
