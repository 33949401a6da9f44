"""What a search costs besides training: a whole search, trial table in SQLite, of a problem that trains nothing.

    python benchmarks/coordination.py [--power 6]

R = 3^POWER and eta = 3: POWER 6 is a search of 1214 trials, POWER 8 one of 10 582.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stantune.problems import BUILT_IN
from stantune.search.coordinator import Job
from stantune.search.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.train import Outcome
from stantune.trial import Cost

ETA = 3


class TrainsNothing:
    """Returns at once an error that looks random; one trial of ten diverges in each rung."""

    def trial(
        self, job: Job, params: Mapping[str, Any], stop_early: Callable[[], bool], watch: Callable[[int], None]
    ) -> Outcome:
        """See stantune.search.executors.Executor."""
        digest = hashlib.blake2b(f"{job.number} {job.stop}".encode(), digest_size=2).digest()
        if digest[0] < 26:
            return Outcome(job.start, {}, job.start, False, Cost())
        return Outcome(job.stop, {"validation": digest[1] / 2.55}, None, False, Cost())

    def final(self, params: Mapping[str, Any], stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        """See stantune.search.executors.Executor."""
        return Outcome(1, {"validation": 0.0, "test": 0.0}, None, False, Cost())


def main() -> None:
    """Print trials, results and seconds of a search, and of the same command given again when all is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--power", type=int, default=6)
    maximum = ETA ** parser.parse_args().power
    # The space of lenet; its length does not matter where nothing is trained.
    problem = replace(BUILT_IN["lenet"], iterations=maximum)
    settings = SearchSettings(seed=0, max_iterations=maximum, min_iterations=1, eta=ETA)
    with tempfile.TemporaryDirectory() as path:
        directory = SearchDirectory(Path(path))
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            with directory.locked():
                state = search(problem, settings, directory, TrainsNothing())
            seconds.append(time.perf_counter() - began)
    trials = len(state.rows)
    results = sum(len(row.errors) + (row.diverged_at is not None) for row in state.rows)
    print("| trials | rung results | seconds | ms a trial | seconds to open it again |")
    print("|---|---|---|---|---|")
    print(f"| {trials} | {results} | {seconds[0]:.1f} | {1e3 * seconds[0] / trials:.2f} | {seconds[1]:.1f} |")


if __name__ == "__main__":
    main()
