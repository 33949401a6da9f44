"""How many trials an hour one GPU trains: one at a time, in several processes, in one that has several, and both.

    python -m benchmarks.searches.gpu_search [--networks lenet,cq] [--rounds 3] [--mps] [--one]
    python -m benchmarks.searches.gpu_search --table --plot docs/gpu-search.png

A trial is a training from scratch of some hundred iterations, with its checkpoint and its evaluation, as a search has
it (`stantune search --workers W --together K`); images are random, and processes have begun before anything is timed.
All ways of a network take turns, round by round. "a step at a time" is one trial whose every step the processor
prepares by itself, replayed from a CUDA graph; in all others a device makes the 32 steps of a block by itself. Each
trial's losses and its error are compared with those of the same trial alone: "same bits". With --mps the processes of
that pool share the device by NVIDIA's Multi-Process Service, which is started for them and ended after them.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.common.kept import RESULTS, Kept
from benchmarks.common.small_networks import SHAPES, resnet18_for_32
from benchmarks.searches.gpu_results import Record, plot, tables
from stantune import Space
from stantune.images.data import Batches, Dataset, Split
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import BUILT_IN, Problem
from stantune.images.solving.solver import Solver
from stantune.outcome import Cost, Outcome
from stantune.protocols import Place, Segment
from stantune.search.workers.turns import InTurns

FILE = RESULTS / "gpu_search.jsonl"
# Of a trial; about as long as it takes the others.
ITERATIONS = {"lenet": 400, "mlp": 400, "cq": 300, "resnet18": 24}
# Trials of so many seeds are trained again and again, so that each can be compared with the same one alone.
SEEDS = 8
SAMPLES, VALIDATION = 12_000, 2_000
MPS = "nvidia-cuda-mps-control"


class Way(NamedTuple):
    """How trials are trained: in so many processes, so many in each, and whether a device makes blocks by itself."""

    processes: int = 1
    together: int = 1
    blocks: bool = True
    mps: bool = False

    @property
    def name(self) -> str:
        """Its name in the table."""
        if not self.blocks:
            return "one, a step at a time"
        inside = f"{self.together} together" if self.together > 1 else "one"
        if self.processes == 1:
            return f"{inside} under MPS" if self.mps else inside
        return f"{self.processes} processes{' under MPS' if self.mps else ''}, {inside} in each"


ALONE, STEPWISE = Way(), Way(blocks=False)
IN_ONE = [STEPWISE, ALONE, *(Way(together=count) for count in (2, 4, 8, 16, 32))]
IN_SEVERAL = [Way(count) for count in (2, 4, 8, 16)]
IN_BOTH = [Way(2, 8), Way(4, 8)]
UNDER_MPS = [way._replace(mps=True) for way in (ALONE, *IN_SEVERAL[1:], *IN_BOTH)]


def problem_of(network: str) -> Problem:
    """Return a network to be trained on random images."""
    built_in = BUILT_IN.get(network)
    channels, height, width = (3, 32, 32) if built_in is None else SHAPES[str(built_in.data)]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (SAMPLES, height, width, channels), generator=generator, dtype=torch.uint8)
    dataset = Dataset("random", Split(images, torch.randint(10, (SAMPLES,), generator=generator)))
    if built_in is None:
        solver = Solver(kind="sgd", lr=0.01, momentum=0.9)
        own = Problem("resnet18", resnet18_for_32, dataset, Space({}), solver, 100, validation=VALIDATION)
        return replace(own, batch_size=128, recordable=True)
    return replace(built_in, data=dataset, validation=VALIDATION)


class Trials:
    """Trains trials in a process, several in turns."""

    def __init__(self, network: str) -> None:
        self._objective = ProblemObjective(problem_of(network))
        self._objective.load()
        self._trainer = self._objective.trainer(Place(0, 1, "cuda"))

    def train(self, numbers: Sequence[int], iterations: int, together: int) -> dict[int, str]:
        """Train the trials with these numbers; return what each came to, to the last bit."""
        came = {}
        with tempfile.TemporaryDirectory() as folder, InTurns(self._trainer, together) as executor:
            for number in numbers:
                file = Path(folder) / f"{number}.pt"
                executor.submit(Segment(number, {}, 0, iterations, number % SEEDS, file, bracket=0))
            while len(came) < len(numbers):
                for segment, how in executor.finished(lambda: False, lambda segment, done: None):
                    # All but its cost.
                    came[segment.trial] = repr(replace(how, cost=Cost()) if isinstance(how, Outcome) else how)
        torch.cuda.synchronize()
        return came


class Task(NamedTuple):
    """For a process: trials to train, with how many in turns and whether by blocks."""

    network: str
    numbers: tuple[int, ...]
    iterations: int
    together: int
    blocks: bool


def serve(connection: Connection) -> None:
    """Train what comes, until nothing more does: the body of a process."""
    torch.set_num_threads(1)
    of: dict[str, Trials] = {}
    by_blocks = Batches.feeds
    torch.zeros(1, device="cuda")
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            task: Task = connection.recv()
            if task.network not in of:
                of[task.network] = Trials(task.network)
            Batches.feeds = by_blocks if task.blocks else _not_fed  # type: ignore[method-assign]
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            came = of[task.network].train(task.numbers, task.iterations, task.together)
            connection.send((came, torch.cuda.max_memory_reserved()))


def _not_fed(batches: Batches, first: int) -> bool:
    """In place of `Batches.feeds`: the processor prepares each step."""
    return False


class Pool:
    """Processes that have begun."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(count):
            mine, its = context.Pipe()
            process = context.Process(target=serve, args=(its,), daemon=True)
            process.start()
            its.close()
            self._ends.append(mine)
            self._processes.append(process)
        for end in self._ends:
            end.recv()

    def train(self, network: str, way: Way, trials: int, iterations: int) -> tuple[dict[int, str], int, float]:
        """Train the trials from 0 on; return what they came to, the memory they had, and the seconds."""
        ends = self._ends[: way.processes]
        began = time.perf_counter()
        for number, end in enumerate(ends):
            numbers = tuple(range(number, trials, way.processes))
            end.send(Task(network, numbers, iterations, way.together, way.blocks))
        answers = [end.recv() for end in ends]
        seconds = time.perf_counter() - began
        came = {number: what for found, _ in answers for number, what in found.items()}
        return came, sum(memory for _, memory in answers), seconds

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(20)
            process.kill()


@contextlib.contextmanager
def service() -> Iterator[None]:
    """Have NVIDIA's Multi-Process Service run within, for processes that begin there."""
    with tempfile.TemporaryDirectory(prefix="mps") as folder:
        where = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ.update(where)
        try:
            subprocess.run([MPS, "-d"], check=True, timeout=20, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                yield
            finally:
                subprocess.run([MPS], input="quit\n", text=True, check=False, timeout=30)
        finally:
            for name in where:
                del os.environ[name]


def trials_of(way: Way) -> int:
    """Return how many trials are timed: each place trains as many, and one alone enough to be timed."""
    return max(way.processes * way.together, 4)


def measured(
    pool: Pool, ways: Sequence[Way], networks: Sequence[str], rounds: int, alone: dict[str, Mapping[int, str]]
) -> Iterator[Record]:
    """Yield what the ways of a pool took, in turns."""
    own = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA_DEVICE_MAX_CONNECTIONS={_connections()}"
    for network in networks:
        # Everything is there, and compiled, before anything is timed.
        most = min(max(way.together for way in ways), 16 if network == "resnet18" else 64)
        pool.train(network, Way(together=most), most, 34)
        pool.train(network, Way(max(way.processes for way in ways), 8), 64, 34)
        if network not in alone:
            alone[network] = pool.train(network, ALONE, SEEDS, ITERATIONS[network])[0]
    for number in range(rounds):
        for network in networks:
            iterations = ITERATIONS[network]
            for way in ways:
                trials = trials_of(way)
                if network == "resnet18" and trials > 16:
                    continue
                came, memory, seconds = pool.train(network, way, trials, iterations)
                same = sum(alone[network][trial % SEEDS] == what for trial, what in came.items())
                record = Record(network, way.name, number, trials, iterations, seconds, memory, same, own)
                print(
                    f"{network}, {way.name}: {trials} in {seconds:.2f} s, {record.an_hour:.0f} an hour, {same} the "
                    f"same, {memory / 1e6:.0f} MB",
                    flush=True,
                )
                yield record


def _connections() -> str:
    return os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS", "unset")


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(ITERATIONS), help="by default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="by default %(default)s")
    parser.add_argument("--processes", type=int, default=16, help="no way with more; by default %(default)s")
    parser.add_argument("--mps", action="store_true", help="also under NVIDIA's Multi-Process Service")
    parser.add_argument("--one", action="store_true", help="only ways with one process")
    parser.add_argument("--keep", type=Path, default=FILE, help="the file of the records")
    parser.add_argument("--table", action="store_true", help="measure nothing, and print what is kept")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="measure nothing, and draw it")
    arguments = parser.parse_args()
    kept = Kept(arguments.keep, lambda line: Record(**line), _key)
    if arguments.table or arguments.plot is not None:
        if arguments.table:
            print(tables(kept.records.values()))
        if arguments.plot is not None:
            plot(kept.records.values(), arguments.plot)
        return
    if not torch.cuda.is_available():
        parser.exit(2, "PyTorch sees no CUDA device here, and this measures nothing else\n")
    networks = arguments.networks.split(",")
    alone: dict[str, Mapping[int, str]] = {}
    ways = IN_ONE if arguments.one else [*IN_ONE, *IN_SEVERAL, *IN_BOTH]
    pools: list[tuple[Any, Sequence[Way]]] = [(contextlib.nullcontext(), ways)]
    if arguments.mps and shutil.which(MPS) is None:
        print(f"{MPS} is not here: nothing is measured under it", file=sys.stderr)
    elif arguments.mps:
        pools.append((service(), UNDER_MPS))
    for context, those in pools:
        with context:
            pool = Pool(min(max(way.processes for way in those), arguments.processes))
            fit = [way for way in those if way.processes <= arguments.processes]
            try:
                for record in measured(pool, fit, networks, arguments.rounds, alone):
                    kept.add(record)
            finally:
                pool.close()


def _key(record: Record) -> object:
    return record.network, record.way, record.round, record.own


if __name__ == "__main__":
    main()
