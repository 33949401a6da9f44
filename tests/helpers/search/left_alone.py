"""A search with workers in a process of its own, to be killed or led astray: a script for test_worker_ends.

Usage: left_alone.py PLACE FAULT [TIMEOUT]; the first trial ends in FAULT, the others take their time. TIMEOUT is what a
training may take for an iteration, in seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from numbers_objective import LENGTH, Numbers

from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.workers.workers import Limits, Workers

if __name__ == "__main__":
    place = Path(sys.argv[1])
    numbers = Numbers(place, {0: sys.argv[2]}, pause=0.02)
    limits = Limits(seconds=float(sys.argv[3])) if sys.argv[3:] else None
    directory = SearchDirectory(place)
    with directory.locked(), Workers(numbers.order, 2, limits) as workers:
        search(numbers, SearchSettings(seed=0, max_resource=LENGTH, min_resource=3), directory, workers)
