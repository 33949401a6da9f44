"""A search with workers in a process of its own, to be killed or led astray: a script for test_workers.

Usage: left_alone.py PLACE FAULT; the first trial ends in FAULT, the others take their time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from faulty import FaultyOrder
from torch import nn

from stantune import Float, Problem, Solver, Space
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.table.directory import SearchDirectory
from stantune.search.workers.workers import Workers

if __name__ == "__main__":
    place = Path(sys.argv[1])
    problem = Problem("nothing", nn.Identity, "mnist", Space({"lr": Float(0.1, 1.0)}), Solver(lr=0.1), iterations=27)
    directory = SearchDirectory(place)
    with directory.locked(), Workers(FaultyOrder(place, {0: sys.argv[2]}, pause=0.02), 2) as workers:
        search(problem, SearchSettings(seed=0, max_iterations=27, min_iterations=3), directory, workers)
