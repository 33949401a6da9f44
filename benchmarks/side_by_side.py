"""Times several ways of doing the same in turns, each in a process of its own; tables and plots of the ratios."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from stantune.kernels.library import kernels
from stantune.runtime import tune_process
from stantune.stan.timing import clock_for

Work = Callable[[], object]


@dataclass(frozen=True)
class Side:
    """One way of doing it.

    Attributes:
        name: in the table.
        make: called in the side's own process; returns what is timed. A module's function, or a partial of one.
        tuned: whether the process keeps its large buffers (runtime.tune_process), as stantune's own do.
    """

    name: str
    make: Callable[[], Work]
    tuned: bool = True


@dataclass
class Times:
    """What a side took.

    Attributes:
        milliseconds: of one piece of work, one figure a round.
        peak: largest resident memory of its process, in MiB, with PyTorch itself.
    """

    milliseconds: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the rounds."""
        low, _, high = statistics.quantiles(self.milliseconds, n=4)
        return low, high

    def faster_than(self, other: Times) -> float:
        """Return how many times faster this is: the median of the rounds' ratios, so that a drift falls out."""
        return statistics.median(b / a for a, b in zip(self.milliseconds, other.milliseconds, strict=True))


def interleave(sides: Sequence[Side], threads: int, rounds: int, repeats: int = 3) -> dict[str, Times]:
    """Have every side do its work in turn, round by round; the first two rounds warm up and do not count.

    One thread's work is told by its own processor time, that of several by the wall clock: have the machine idle then.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    processes = []
    for side in sides:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, side, threads), daemon=True)
        process.start()
        there.close()
        workers[side.name] = here
        processes.append(process)
    times = {side.name: Times() for side in sides}
    for number in range(rounds + 2):
        for name, worker in workers.items():
            worker.send(repeats)
            milliseconds, times[name].peak = worker.recv()
            if number >= 2:
                times[name].milliseconds.append(milliseconds)
    for worker in workers.values():
        worker.send(0)
    for process in processes:
        process.join()
    return times


def _serve(connection: Connection, side: Side, threads: int) -> None:
    if side.tuned:
        tune_process(threads)
    else:
        torch.set_num_threads(threads)
    clock = clock_for(torch.device("cpu"))
    work = side.make()
    while repeats := connection.recv():
        work()  # the caches hold another side's data
        began = clock()
        for _ in range(repeats):
            work()
        took = (clock() - began) / repeats * 1e3
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
        connection.send((took, peak))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def several(text: str) -> int:
    """Return the number of rounds that `text` says: two or more, as quartiles need; an argparse type."""
    rounds = int(text)
    if rounds < 2:
        raise argparse.ArgumentTypeError(f"{rounds} rounds have no quartiles; give 2 or more")
    return rounds


def thread_count(threads: int) -> str:
    """Return "1 thread" or "2 threads"."""
    return f"{threads} thread{'s' * (threads > 1)}"


def setting(threads: int) -> str:
    """Return what every table names: threads, PyTorch and kernels."""
    return f"{thread_count(threads)}, PyTorch {torch.__version__}, kernels {kernels().form or 'none'}"


def plot(path: Path, title: str, ratios: Mapping[str, Mapping[str, float]]) -> None:
    """Draw bars of how many times faster, in groups: {group: {side: ratio}}. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sides = list(dict.fromkeys(side for group in ratios.values() for side in group))
    figure, axes = plt.subplots(figsize=(3.0 + 1.3 * len(ratios), 4), layout="constrained")
    width = 0.8 / len(sides)
    for number, side in enumerate(sides):
        places = [place + (number - (len(sides) - 1) / 2) * width for place in range(len(ratios))]
        axes.bar(places, [group.get(side, 0.0) for group in ratios.values()], width, label=side)
    many = len(ratios) > 5
    axes.set_xticks(range(len(ratios)), list(ratios), rotation=20 * many, ha="right" if many else "center")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_ylabel("times faster than stock PyTorch")
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)
    plt.close(figure)
