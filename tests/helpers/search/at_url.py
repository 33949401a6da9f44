"""A search with workers whose table is at a URL, in child processes that are killed: a script for test_storage_faults.

Usage: at_url.py PLACE URL PAUSE ITERATIONS...; PAUSE are the seconds of an iteration. A first child is killed when so
many iterations are trained in all, another one when so many more are, and so on; the last one is not.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path

from numbers_objective import LENGTH, Numbers

from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.table.storages import opening as storage
from stantune.search.workers.workers import Workers


def run(place: Path, url: str, pause: float) -> None:
    """Run or go on with the search."""
    numbers = Numbers(place, pause=pause)
    settings = SearchSettings(seed=0, max_resource=LENGTH, min_resource=3)
    directory = SearchDirectory(place, url)
    with directory.locked(), Workers(numbers.order, 2) as workers:
        search(numbers, settings, directory, workers)


def child(place: Path, url: str, pause: float) -> int:
    """Run the search in a child, and return its process."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            run(place, url, pause)
            code = 0
        finally:
            os._exit(code)
    return process


def main() -> None:
    """Kill child after child."""
    # A journal's lock that a killed process held is not to take the tests' time.
    warnings.filterwarnings("ignore", "The value of `grace_period`")
    storage.JOURNAL_LOCK_SECONDS = 1
    place, url, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    log = place / "log"

    def trained() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    for more in map(int, sys.argv[4:]):
        process, wanted = child(place, url, pause), trained() + more
        while trained() < wanted:
            time.sleep(0.005)
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "it ended before its moment"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    _, status = os.waitpid(child(place, url, pause), 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
