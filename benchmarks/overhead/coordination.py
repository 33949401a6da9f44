"""What a search costs besides training: a whole search, trial table in SQLite, of an objective that trains nothing.

    python -m benchmarks.overhead.coordination [--power 6] [--workers 1] [--sampler random] [--mode sync] [--trials N]

R = 3^POWER and eta = 3: POWER 6 is a Hyperband search of 1214 trials, POWER 8 one of 10 582; --trials is for --mode
async.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stantune.outcome import Cost, Outcome
from stantune.parameters import Float
from stantune.protocols import Conditions, Metric, Place, Prepared, Segment, StopEarly
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.plan.values import Final, Training
from stantune.search.propose.sampler import SAMPLERS
from stantune.search.settings import MODES, SearchSettings
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Silent
from stantune.search.workers.executors import InProcess
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers
from stantune.space import Space

ETA = 3
# As many parameters as those of lenet, on the same scales.
SPACE = Space(
    {
        "lr": Float(5e-5, 5, log=True),
        "conv1_l2": Float(5e-5, 5, log=True),
        "conv2_l2": Float(5e-5, 5, log=True),
        "momentum": Float(0.001, 0.99, log=True),
    }
)
METRIC = Metric("error", unit="%")


@dataclass(frozen=True)
class Nothing:
    """Trains nothing; see protocols.Objective."""

    length: int
    name: str = "nothing"
    space: Space = field(default_factory=lambda: SPACE)
    metric: Metric = METRIC
    unit: str = "iteration"
    rate: float | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name."""
        return {"problem": self.name}

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective."""
        return Prepared(self, 1)

    def trainer(self, place: Place) -> TrainsNothing:
        """See Objective."""
        return TrainsNothing()


class TrainsNothing:
    """Returns at once an error that looks random; one trial of ten diverges in each rung."""

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See stantune.objective.Trainer."""
        if segment.final:
            return Outcome(segment.stop, {METRIC.name: 0.0}, None, False, Cost())
        digest = hashlib.blake2b(f"{segment.trial} {segment.stop}".encode(), digest_size=2).digest()
        if digest[0] < 26:
            return Outcome(segment.start, {}, segment.start, False, Cost())
        return Outcome(segment.stop, {METRIC.name: digest[1] / 2.55}, None, False, Cost())


class Memory(Silent):
    """Looks at this process's resident memory when a tenth of the trials have begun, and at the end."""

    def __init__(self) -> None:
        self.megabytes: dict[bool, float] = {}

    def job(self, job: Training, progress: Progress) -> None:
        """Look."""
        late = isinstance(job, Final)
        if late or (False not in self.megabytes and progress.trials >= progress.planned / 10):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.megabytes[late] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Print trials, results, seconds and memory of a search, and the same command's seconds when all is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--power", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1, help="1: in this process")
    parser.add_argument("--sampler", choices=SAMPLERS, default="random")
    parser.add_argument("--mode", choices=MODES, default="sync")
    parser.add_argument("--trials", type=int, help="of an asynchronous search; as in stantune search")
    arguments = parser.parse_args()
    maximum = ETA**arguments.power
    nothing = Nothing(maximum)
    settings = SearchSettings(
        seed=0,
        max_resource=maximum,
        min_resource=1,
        eta=ETA,
        mode=arguments.mode,
        trials=arguments.trials,
        sampler=arguments.sampler,
    )
    memory = Memory()
    with tempfile.TemporaryDirectory() as path:
        directory = SearchDirectory(Path(path))
        seconds, processor = [], []
        for _ in range(2):
            began, busy = time.perf_counter(), time.process_time()
            with directory.locked():
                if arguments.workers == 1:
                    state = search(nothing, settings, directory, InProcess(TrainsNothing()), watcher=memory)
                else:
                    with Workers(Order(nothing, Place()), arguments.workers) as workers:
                        state = search(nothing, settings, directory, workers, watcher=memory)
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - busy)
    trials = len(state.rows)
    results = sum(len(row.errors) + (row.diverged_at is not None) for row in state.rows)
    print(
        "| mode | sampler | workers | trials | rung results | seconds | processor seconds | ms a trial | "
        "seconds to open it again | MB after a tenth | MB at the end |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {arguments.mode} | {arguments.sampler} | {arguments.workers} | {trials} | {results} | {seconds[0]:.1f} | "
        f"{processor[0]:.1f} | {1e3 * seconds[0] / trials:.2f} | {seconds[1]:.1f} | {memory.megabytes[False]:.0f} | "
        f"{memory.megabytes[True]:.0f} |"
    )


if __name__ == "__main__":
    main()
