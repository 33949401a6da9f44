"""What a worker takes to begin: started anew, and as a copy of a process that has loaded what all need.

    python -m benchmarks.overhead.startup --problem cq --workers 4

All workers are given a training of one iteration at once, first as copies and then anew, --rounds times in turn. Per
worker: seconds of processor time that its process had used when it had done its iteration and evaluation, since it was
started (what was used before it was copied is the template's, once); and megabytes of memory that are its own
alone. For all together: seconds until the last one was over. Least of the rounds. Linux.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.side_by_side import table
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import find
from stantune.protocols import Place, Segment
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers
from stantune.stan.config import Stan


class Begun(NamedTuple):
    """What workers took: of each, processor seconds and megabytes; and seconds of all; and the template's share."""

    seconds: list[float]
    megabytes: list[float]
    all: float
    template: float


def begin(order: Order, count: int, copies: bool, place: Path) -> Begun:
    """Start so many workers for a training of one iteration each."""
    segments = [
        Segment(number, {}, 0, 1, number, place / f"{copies}-{number}.pt", bracket=0) for number in range(count)
    ]
    began = time.perf_counter()
    with Workers(order, count) as workers:
        workers._copies = workers._copies and copies
        for segment in segments:
            workers.submit(segment)
        over = 0
        while over < count:
            over += len(workers.finished(lambda: False, lambda segment, done: None))
        took = time.perf_counter() - began
        processes = [worker.process.pid for worker in workers._living()]
        template = workers._template
        return Begun(
            [_seconds(process) for process in processes if process],
            [_own(process) for process in processes if process],
            took,
            0.0 if template is None or template._process.pid is None else _seconds(template._process.pid),
        )


def _seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own(process: int) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1000


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="cq", help="lenet, cq, …")
    parser.add_argument("--workers", type=int, default=4, help="side by side")
    parser.add_argument("--rounds", type=int, default=3, help="of which the least is taken")
    options = parser.parse_args()
    objective = ProblemObjective(find(options.problem), Stan(rate=1), source=options.problem)
    order, rows = Order(objective, Place(threads=1)), []
    for copies in (False, True):
        with tempfile.TemporaryDirectory() as place:
            rounds = []
            for number in range(options.rounds):
                folder = Path(place, str(number))
                folder.mkdir()
                rounds.append(begin(replace(order), options.workers, copies, folder))
        rows.append(
            (
                "copies" if copies else "anew",
                f"{min(max(each.seconds) for each in rounds):.2f}",
                f"{min(each.template for each in rounds):.2f}",
                f"{min(max(each.megabytes) for each in rounds):.0f}",
                f"{min(each.all for each in rounds):.2f}",
            )
        )
    columns = ("workers", "processor s of each, at most", "of the template", "own MB, at most", "s until all were over")
    print(f"{options.problem}, {options.workers} workers\n\n{table(columns, rows)}")


if __name__ == "__main__":
    main()
