"""Kills a search again and again, its main process and its workers, and tells whether it ends as if nothing had been.

    python benchmarks/soak.py [--kills 200] [--workers 2] [--seed 0]

Small searches, one after the other, until so many processes have been killed (SIGKILL, at random moments). A trial's
training is a chain of hashes whose last link is its error, its checkpoint is how far the chain is: an iteration that is
done twice, left out, or gone on with from an older state ends in another error. Needs Linux (/proc), since it looks for
processes that are left over.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from stantune.errors import DamagedCheckpointError
from stantune.files import write_whole
from stantune.objective import Conditions, Metric, Place, Prepared, Segment, StopEarly
from stantune.outcome import Cost, Outcome
from stantune.search.loop import search
from stantune.search.plan.values import FinalResult
from stantune.search.session import SearchState
from stantune.search.settings import SearchSettings
from stantune.search.table.directory import SearchDirectory
from stantune.search.workers.executors import Executor, InProcess
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers
from stantune.space import Float, Space

ITERATIONS = 27
PAUSE_SECONDS = 0.003
# A killed search's workers have so long to be gone.
LEFT_SECONDS = 10.0


SPACE = Space({"lr": Float(1e-3, 1.0, log=True), "momentum": Float(0.0, 0.9)})
METRIC = Metric("error", unit="%")


@dataclass(frozen=True)
class HashChains:
    """Trains by hashing; see stantune.objective.Objective."""

    name: str = "chains"
    space: Space = field(default_factory=lambda: SPACE)
    metric: Metric = METRIC
    unit: str = "iteration"
    length: int = ITERATIONS
    rate: float | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name."""
        return {"problem": self.name}

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective."""
        return Prepared(self, 1)

    def trainer(self, place: Place) -> Hashing:
        """See Objective."""
        return Hashing()


class Hashing:
    """See stantune.objective.Trainer."""

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See Trainer."""
        start, stop, setting = segment.start, segment.stop, sorted(segment.params.items())
        done, link = _load(segment.checkpoint)
        while done < stop:
            time.sleep(PAUSE_SECONDS)
            done += 1
            link = hashlib.blake2b(f"{link} {done} {setting}".encode(), digest_size=8).hexdigest()
            _save(segment.checkpoint, done, link)
            watch(done)
            if done < stop and stop_early():
                return Outcome(done, {}, None, True, Cost(exact=done - start))
        number = int(link, 16)
        cost = Cost(exact=stop - start)
        if number % 16 == 0 and not segment.final:
            return Outcome(stop, {}, start, False, cost)
        metrics = {METRIC.name: number % 10_007 / 100.07, "another": number % 9_973 / 99.73}
        return Outcome(stop, metrics, None, False, cost)


def _load(checkpoint: Path) -> tuple[int, str]:
    if not checkpoint.exists():
        return 0, ""
    try:
        done, link = json.loads(checkpoint.read_text())
    except ValueError as error:
        raise DamagedCheckpointError(f"{checkpoint} is damaged") from error
    return done, link


def _save(checkpoint: Path, done: int, link: str) -> None:
    checkpoint.parent.mkdir(exist_ok=True)
    write_whole(checkpoint, json.dumps([done, link]).encode())


def run(place: Path, seed: int, workers: int) -> SearchState:
    """Run or go on with a search; without workers in this process."""
    chains = HashChains()
    settings = SearchSettings(seed=seed, max_resource=ITERATIONS, min_resource=1, finalists=2)
    directory = SearchDirectory(place)

    def go(executor: Executor) -> SearchState:
        # Whoever is killed at random may well be killed a third time on the same segment.
        return search(chains, settings, directory, executor, retries=1_000_000)

    with directory.locked():
        if not workers:
            return go(InProcess(Hashing()))
        with Workers(Order(chains, Place()), workers) as executor:
            return go(executor)


class Result(NamedTuple):
    """All that must be the same in the end: the trial table, the final trainings, and the files."""

    rows: list[Any]
    finals: list[FinalResult]
    files: list[str]


def result_of(state: SearchState, place: Path) -> Result:
    """Return what a search has come to, without what it cost and what went wrong on the way."""
    assert state.complete
    assert len(state.finals) == 2
    rows = [[row.number, row.bracket, row.params, dict(row.errors), row.diverged_at, row.failed] for row in state.rows]
    finals = [replace(final, cost=Cost()) for _, final in sorted(state.finals.items())]
    files = [str(file.relative_to(place)) for file in place.rglob("*") if file.suffix in (".pt", ".part")]
    return Result(rows, finals, sorted(files))


class Killer:
    """Kills at random moments, and counts.

    Attributes:
        mains: main processes killed.
        workers: worker processes killed.
        left: processes that outlived their search for longer than they may.
    """

    def __init__(self, seed: int) -> None:
        self.mains = self.workers = self.left = 0
        self._moments = random.Random(seed)

    @property
    def kills(self) -> int:
        """Processes killed so far."""
        return self.mains + self.workers

    def disturb(self, place: Path, seed: int, workers: int, most: int) -> None:
        """Run a search to its end, its processes killed until so many have been."""
        before = self.kills
        while True:
            main = _fork(lambda: run(place, seed, workers), place.with_suffix(".said"))
            ended: int | None = None
            family: set[int] = set()
            while ended is None:
                # A little later from kill to kill, so that it gets to its end; and mostly while something is trained,
                # since processes take longer to start than these trainings do.
                wait = self._moments.uniform(0.0, 0.5 + 0.01 * (self.kills - before))
                began, trained = time.monotonic(), None
                if self._moments.random() < 0.75:
                    began, trained, wait = math.inf, _checkpoints(place), wait / 4
                while ended is None and (time.monotonic() < began + wait or self.kills >= most):
                    if trained is not None and _checkpoints(place) != trained:
                        began, trained = time.monotonic(), None
                    time.sleep(0.002)
                    ended = _ended(main)
                if ended is not None:
                    break
                children = _workers(main)
                family |= set(children)
                if children and self._moments.random() < 0.5:
                    os.kill(self._moments.choice(children), signal.SIGKILL)
                    self.workers += 1
                else:
                    os.kill(main, signal.SIGKILL)
                    self.mains += 1
                    ended = os.waitpid(main, 0)[1]
                    self._count_left(family)
            if os.WIFEXITED(ended):
                if os.WEXITSTATUS(ended):
                    print(place.with_suffix(".said").read_text(), file=sys.stderr)
                    sys.exit("a search failed")
                return

    def _count_left(self, family: set[int]) -> None:
        end = time.monotonic() + LEFT_SECONDS
        while (alive := [process for process in family if _lives(process)]) and time.monotonic() < end:
            time.sleep(0.005)
        self.left += len(alive)


def _fork(body: Callable[[], object], said: Path) -> int:
    """Run something in a child process, and keep what it says: Python speaks of workers whose parent is gone."""
    process = os.fork()
    if process == 0:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        code = 1
        try:
            body()
            code = 0
        except BaseException:
            # Nobody else would say it, as the process ends here.
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def _ended(process: int) -> int | None:
    found, status = os.waitpid(process, os.WNOHANG)
    return status if found else None


def _checkpoints(place: Path) -> list[tuple[str, int]]:
    """Return the checkpoints with the times at which they were written."""
    with contextlib.suppress(OSError):
        return [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(place / "checkpoints")]
    return []


def _workers(main: int) -> list[int]:
    """Return the worker processes of a search, those that are starting among them."""
    try:
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def _lives(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return "spawn_main" in Path(f"/proc/{process}/cmdline").read_text() and stat.rpartition(")")[2].split()[0] != "Z"


def main() -> None:
    """Print a line of figures; the exit code tells whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    killer, began = Killer(arguments.seed), time.monotonic()
    searches = trials = retried = different = 0
    with tempfile.TemporaryDirectory() as directory:
        while killer.kills < arguments.kills:
            seed = arguments.seed + searches
            undisturbed, disturbed = Path(directory) / f"undisturbed-{seed}", Path(directory) / f"disturbed-{seed}"
            # The first one brings all imports with it, so that the processes to be killed live on searching.
            expected = result_of(run(undisturbed, seed, 0), undisturbed)
            killer.disturb(disturbed, seed, arguments.workers, arguments.kills)
            # Nothing is left to do: this only reads what the search has come to.
            state = run(disturbed, seed, 0)
            different += result_of(state, disturbed) != expected
            searches += 1
            trials += len(state.rows)
            retried += sum(len(row.failures) for row in state.rows)
    print(
        "| kills | of the main one | of workers | searches | trials | begun again | left over | different | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {killer.kills} | {killer.mains} | {killer.workers} | {searches} | {trials} | {retried} | {killer.left} | "
        f"{different} | {time.monotonic() - began:.0f} |"
    )
    sys.exit(different > 0 or killer.left > 0)


if __name__ == "__main__":
    main()
