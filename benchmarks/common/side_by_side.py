"""Times several ways of doing the same in turns, each in a process of its own; tables and plots of the ratios."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from stantune.kernels.library import kernels
from stantune.process.runtime import tune_process
from stantune.stan.planning.timing import clock_for

Work = Callable[[], object]


@dataclass(frozen=True)
class Mixture:
    """Work of several kinds: what counts is the time of a mean piece.

    Attributes:
        parts: the share of all pieces that are of this kind, and the work; a turn does them in this order.
        told: what there is to say besides; it comes into the side's Times.
    """

    parts: Sequence[tuple[float, Work]]
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One way of doing it.

    Attributes:
        name: in the table.
        make: called in the side's own process, while no other side works; returns what is timed. A module's function,
            or a partial of one.
        tuned: whether the process keeps its large buffers (runtime.tune_process), as stantune's own do.
    """

    name: str
    make: Callable[[], Work | Mixture]
    tuned: bool = True


@dataclass
class Times:
    """What a side took.

    Attributes:
        milliseconds: of one piece of work, one figure a round.
        peak: largest resident memory of its process, in MiB, with PyTorch itself.
        before: the same before the side was made.
        told: what a Mixture has to say.
        failed: why there are no times, "" where there are; the traceback is on the error output.
    """

    milliseconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    before: float = 0.0
    told: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""

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


def interleave(
    sides: Sequence[Side],
    threads: int,
    rounds: int,
    repeats: int = 3,
    *,
    warm_rounds: int = 2,
    warm_turns: bool = True,
    preload: Sequence[str] = (),
) -> dict[str, Times]:
    """Have every side do its work in turn, round by round.

    One thread's work is told by its own processor time, that of several by the wall clock: have the machine idle then.

    Args:
        sides: what is compared. One that fails, or whose process dies, takes part no longer.
        threads: of each.
        rounds: that count.
        repeats: pieces of work in a turn.
        warm_rounds: rounds before, which do not count.
        warm_turns: whether each turn begins with a piece that does not count, since the caches hold another side's
            data. Where a piece takes long, it is not needed.
        preload: modules that all sides import: they are imported once, in a process whose copies the sides' are.
    """
    context: Any = context_with(preload)
    workers: dict[str, Connection] = {}
    processes = []
    times = {side.name: Times() for side in sides}
    for side in sides:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, side, threads, warm_turns), daemon=True)
        process.start()
        there.close()
        workers[side.name] = here
        processes.append(process)
        made = _answer(here, times[side.name])
        if made is not None:
            times[side.name].before, times[side.name].told = made
    for number in range(rounds + warm_rounds):
        for name, worker in workers.items():
            if times[name].failed:
                continue
            with suppress(BrokenPipeError):  # the answer says so
                worker.send(repeats)
            answer = _answer(worker, times[name])
            if answer is not None:
                milliseconds, times[name].peak = answer
                if number >= warm_rounds:
                    times[name].milliseconds.append(milliseconds)
    for name, worker in workers.items():
        if not times[name].failed:
            worker.send(0)
    for process in processes:
        process.join()
    return times


def context_with(preload: Sequence[str]) -> Any:
    """Return how processes are started: anew, or as copies of one that has imported these modules."""
    if not preload or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _answer(worker: Connection, times: Times) -> Any:
    """Return what a side answers; None where it has failed, and then its times say why."""
    try:
        answer = worker.recv()
    except (EOFError, ConnectionResetError):
        answer = "its process died"
    if not isinstance(answer, str):
        return answer
    times.failed = answer
    times.milliseconds.clear()
    return None


def _serve(connection: Connection, side: Side, threads: int, warm_turns: bool) -> None:
    try:
        _work(connection, side, threads, warm_turns)
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}")


def _work(connection: Connection, side: Side, threads: int, warm_turns: bool) -> None:
    if side.tuned:
        tune_process(threads)
    else:
        torch.set_num_threads(threads)
    clock = clock_for(torch.device("cpu"))
    before = _peak()
    made = side.make()
    mixture = made if isinstance(made, Mixture) else Mixture([(1.0, made)])
    connection.send((before, dict(mixture.told)))
    while repeats := connection.recv():
        if warm_turns:
            for _, work in mixture.parts:
                work()
        took = 0.0
        for share, work in mixture.parts:
            began = clock()
            for _ in range(repeats):
                work()
            took += share * (clock() - began) / repeats * 1e3
        connection.send((took, _peak()))


def _peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


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
