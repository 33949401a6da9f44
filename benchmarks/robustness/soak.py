"""Kills a search again and again, its main process and its workers, and tells whether it ends as if nothing had been.

    python -m benchmarks.robustness.soak [--objective all] [--kills 200] [--workers 2] [--executor local] [--seed 0]

Small searches by st.tune, one after the other, until so many processes have been killed (SIGKILL, at random moments, in
final trainings too): main processes, after which a new one makes the same call; workers, Ray's among them; and what a
command runs. In the end the trial table, the final trainings, their weights and the names of all files must be those of
the search that nothing happened to. Needs Linux (/proc), since it looks for processes that are left over.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import pickle
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import stantune as st
from benchmarks.robustness import soaked
from benchmarks.robustness.outcomes import Result, result_of
from benchmarks.robustness.processes import Process, family, fork, line_of
from stantune.search.plan.values import Final, Training
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Silent

# What a killed search had running has so long to be gone; Ray first has to notice that its driver is.
LEFT_SECONDS = {"local": 10.0, "ray": 60.0}

# Modules that the objectives need besides, by the objective's name.
NEEDED = {
    "problem": ("images.objective", "training.train"),
    "loop": ("objectives.function.trainer",),
    "lightning": ("objectives.lightning.objective",),
    "command": ("objectives.command.objective",),
}


class Call(NamedTuple):
    """A call of st.tune.

    Attributes:
        what: the objective and its options.
        seed: of the search.
        workers: side by side.
        address: of a Ray cluster; None for local workers.
    """

    what: soaked.Soaked
    seed: int
    workers: int
    address: str | None

    def run(self, place: Path) -> None:
        """Run the search or go on with it, and write down what it came to."""
        cluster = {"executor": "ray", "address": self.address} if self.address else {}

        @contextmanager
        def watching() -> Iterator[Marking]:
            yield Marking(place.with_suffix(".final"))

        found = st.tune(
            self.what.objective,
            **self.what.options,
            **cluster,
            seed=self.seed,
            finalists=soaked.FINALISTS,
            out=place,
            workers=self.workers,
            threads=1,
            device="cpu",
            # Whoever is killed at random may well be killed a third time on the same segment.
            retries=1_000_000,
            watching=watching,
        )
        place.with_suffix(".result").write_bytes(pickle.dumps(result_of(found)))


class Marking(Silent):
    """Leaves a file when the final trainings begin."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def job(self, job: Training, progress: Progress) -> None:
        """See Watcher."""
        if isinstance(job, Final):
            self._mark.touch()


class Killer:
    """Kills at random moments, and counts.

    Attributes:
        killed: processes, by their kind.
        finals: of these, while final trainings ran.
        left: processes that outlived their search for longer than they may.
    """

    def __init__(self, seed: int, mark: str, left_seconds: float) -> None:
        self.killed: Counter[str] = Counter()
        self.finals = self.left = 0
        self._moments = random.Random(seed)
        self._mark = mark
        self._left_seconds = left_seconds
        # What killed searches had running, and until when it has to be gone.
        self._leaving: dict[Process, float] = {}

    @property
    def kills(self) -> int:
        """Processes killed so far."""
        return self.killed.total()

    def disturb(self, call: Call, place: Path, most: int) -> None:
        """Run a search to its end, its processes killed until so many have been."""
        before, finals = self.kills, self.finals
        while True:
            main = fork(lambda: call.run(place), place.with_suffix(".said"))
            ended: int | None = None
            while ended is None:
                # A little later from kill to kill, so that it gets to its end, and from the first again in the final
                # trainings; and mostly while something is trained, since processes take longer to start than that.
                since = self.finals - finals if place.with_suffix(".final").exists() else self.kills - before
                wait = self._moments.uniform(0.0, 0.5 + 0.02 * since)
                began, trained = time.monotonic(), None
                if self._moments.random() < 0.8:
                    began, trained = math.inf, checkpoints(place)
                while ended is None and (time.monotonic() < began + wait or self.kills >= most):
                    if trained is not None and checkpoints(place) != trained:
                        began, trained = time.monotonic(), None
                    time.sleep(0.005)
                    ended = _ended(main)
                if ended is None:
                    ended = self._kill(main, place)
            if os.WIFEXITED(ended):
                if os.WEXITSTATUS(ended):
                    print(place.with_suffix(".said").read_text(), file=sys.stderr)
                    sys.exit("a search failed")
                self._see_off(wait=True)
                return

    def _kill(self, main: int, place: Path) -> int | None:
        """Kill a process of a search; return how the main one ended, None where it was another one."""
        victims: dict[str, list[Process]] = {"main": []}
        for process, kind in family(soaked.OFTEN, self._mark).items():
            if kind in ("worker", "command") and process not in self._leaving:
                victims.setdefault(kind, []).append(process)
        kind = self._moments.choice(list(victims))
        if kind == "main":
            os.kill(main, signal.SIGKILL)
        else:
            try:
                os.kill(self._moments.choice(victims[kind]).number, signal.SIGKILL)
            except ProcessLookupError:
                return None
        self.killed[kind] += 1
        self.finals += place.with_suffix(".final").exists()
        if kind != "main":
            return None
        ended = os.waitpid(main, 0)[1]
        self._see_off(wait=self._moments.random() < 0.5)
        return ended

    def _see_off(self, wait: bool) -> None:
        """Have what a search that has ended had running go, now or while the next one begins; count what does not."""
        now = time.monotonic()
        for process in family(soaked.OFTEN, self._mark):
            self._leaving.setdefault(process, now + self._left_seconds)
        while self._leaving:
            alive = family(soaked.OFTEN, self._mark)
            self._leaving = {process: until for process, until in self._leaving.items() if process in alive}
            for process, until in list(self._leaving.items()):
                if time.monotonic() > until:
                    self.left += 1
                    print(f"left over: {line_of(process.number)!r}", file=sys.stderr)
                    # It is counted once.
                    os.kill(process.number, signal.SIGKILL)
                    del self._leaving[process]
            if not wait:
                return
            time.sleep(0.01)


def undisturbed(call: Call, place: Path) -> Result:
    """Run a search in one process, whose trainings are saved when others are: at the end of each segment."""

    def body() -> None:
        del os.environ[soaked.OFTEN]
        call._replace(workers=1, address=None).run(place)

    status = os.waitpid(fork(body, place.with_suffix(".said")), 0)[1]
    if status:
        print(place.with_suffix(".said").read_text(), file=sys.stderr)
        sys.exit("an undisturbed search failed")
    return read(place)


def read(place: Path) -> Result:
    """Return what a process has written down of a search."""
    result: Result = pickle.loads(place.with_suffix(".result").read_bytes())
    return result


def _ended(process: int) -> int | None:
    found, status = os.waitpid(process, os.WNOHANG)
    return status if found else None


def checkpoints(place: Path) -> list[tuple[str, int]]:
    """Return all that trainings write, with the times at which it was written."""
    found = []
    for folder in (place, place / "checkpoints"):
        with contextlib.suppress(OSError):
            found += [(each.name, each.stat().st_mtime_ns) for each in os.scandir(folder) if _is_written(each.name)]
    return found


def _is_written(name: str) -> bool:
    return name.startswith(("trial-", "final"))


@contextmanager
def cluster() -> Iterator[str]:
    """Give the address of a Ray cluster on this machine."""
    script = Path(__file__).with_name("local_ray.py")
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            sys.exit("Ray starts no cluster here")
        yield address
    finally:
        process.stdin.close()
        process.wait()


def warm(names: Collection[str], on_ray: bool) -> None:
    """Import what searches of these objectives do sooner or later, so that processes to be killed live on searching.

    There must be no tensor work before a fork, and no talk with Ray.
    """
    needed = {"tuning.tune"} | {module for name in names for module in NEEDED.get(name, ())}
    for module in [*sorted(needed), *(["search.ray.run"] if on_ray else [])]:
        importlib.import_module(f"stantune.{module}")
    if "lightning" in names:
        importlib.import_module("lightning.pytorch")
    with tempfile.TemporaryDirectory() as place:
        Store.open(sqlite_url(Path(place) / "warm.db"), "warm", {}, st.Space({}), st.Metric("")).release()


def soak(
    name: str, kills: int, seed: int, workers: int, address: str | None, directory: Path
) -> tuple[list[int], bool]:
    """Disturb searches of an objective until so many processes are killed; return the figures, and if all is well."""
    executor = "ray" if address else "local"
    mark = os.environ[soaked.OFTEN]
    killer, began = Killer(seed, mark, LEFT_SECONDS[executor]), time.monotonic()
    searches = trials = failures = different = 0
    while killer.kills < kills:
        call = Call(soaked.OBJECTIVES[name](), seed + searches, workers, address)
        one, other = (directory / f"{name}-{searches}-{how}" for how in ("undisturbed", "disturbed"))
        expected = undisturbed(call, one)
        killer.disturb(call, other, kills)
        found = read(other)
        if differing := found.differs(expected):
            different += 1
            for field in differing:
                print(
                    f"{name} {call.seed}: {field}: {getattr(found, field)}\n{getattr(expected, field)}", file=sys.stderr
                )
        searches += 1
        trials += len(found.rows)
        failures += found.failures
    figures = [killer.kills, killer.killed["main"], killer.killed["worker"], killer.killed["command"], killer.finals]
    figures += [searches, trials, failures, killer.left, different, round(time.monotonic() - began)]
    return figures, not (different or killer.left)


def main() -> None:
    """Print a line of figures for each objective; the exit code tells whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=[*soaked.OBJECTIVES, "all"], default="chains")
    parser.add_argument("--kills", type=int, default=200, help="of each objective")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", choices=list(LEFT_SECONDS), default="local")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # All processes that are started from here on have it, and are known by it.
    os.environ[soaked.OFTEN] = secrets.token_hex(8)
    names = list(soaked.OBJECTIVES) if arguments.objective == "all" else [arguments.objective]
    warm(names, arguments.executor == "ray")
    print(
        "| objective | executor | kills | of the main one | of workers | of commands | in final trainings | searches | "
        "trials | begun again | left over | different | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    good = True
    with (
        tempfile.TemporaryDirectory() as directory,
        cluster() if arguments.executor == "ray" else contextlib.nullcontext() as address,
    ):
        for name in names:
            figures, well = soak(name, arguments.kills, arguments.seed, arguments.workers, address, Path(directory))
            good &= well
            print("|", " | ".join([name, arguments.executor, *map(str, figures)]), "|", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
