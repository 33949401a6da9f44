"""Which share of their time workers wait for results that a proposal may look at, by `--lag`; simulated.

    python -m benchmarks.overhead.lag [--lags 8,16,24] [--workers 2,4,8] [--seeds 3]

Hyperband (eta = 3) of R = 81 from 1 on and of R = 4 000 from 40 on: every iteration takes the same time, trainings have
random values, and none, a quarter or half of them diverge at once. A cell is the lowest and the highest share over both
R, these three and all seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
from collections.abc import Callable, Iterator, Sequence

from benchmarks.common.side_by_side import table
from stantune.search.plan.coordinator import ready_jobs
from stantune.search.plan.hyperband import Bracket, plan
from stantune.search.plan.observations import ScheduledObservations
from stantune.search.plan.values import Job, TrialRow

# Five brackets each.
PLANS = (plan(81, 1, 3), plan(4000, 40, 3))
# Of 256 trainings.
DIVERGING = (0, 64, 128)
# What trial n comes to at the end of a rung; None where it diverges in it.
Outcome = Callable[[int, int], float | None]


def share_waited(brackets: Sequence[Bracket], workers: int, lag: int, of: Outcome) -> float:
    """Return the share of their time that workers wait for proposals; a trial that diverges does so at once."""
    brackets = tuple(brackets)
    followed = ScheduledObservations(brackets, lag)
    rows: list[TrialRow] = []
    running: list[tuple[int, Job]] = []
    now = waited = 0
    while True:
        under_way = {job for _, job in running}
        ready = [job for job in ready_jobs(brackets, rows) if job not in under_way]
        if not ready and not running:
            return waited / (now * workers)
        waiting = 0
        for job in ready[: workers - len(running)]:
            if job.number == len(rows):
                if job.number >= followed.begins(rows):
                    waiting = workers - len(running)
                    break
                rows.append(TrialRow(job.number, job.bracket, {}))
            seconds = 1 if of(job.number, job.stop) is None else job.stop - job.start
            heapq.heappush(running, (now + seconds, job))
        before = now
        now, job = heapq.heappop(running)
        waited += waiting * (now - before)
        rows[job.number] = _ended(rows[job.number], job, of(job.number, job.stop))


def _ended(row: TrialRow, job: Job, value: float | None) -> TrialRow:
    if value is None:
        return TrialRow(row.number, row.bracket, {}, row.errors, job.start + 1)
    return TrialRow(row.number, row.bracket, {}, {**row.errors, job.stop: value})


def outcome(seed: int, diverging: int) -> Outcome:
    """Return random outcomes, of which `diverging` in 256 are None."""

    def of(number: int, stop: int) -> float | None:
        digest = hashlib.blake2b(f"{seed} {number} {stop}".encode(), digest_size=3).digest()
        return None if digest[0] < diverging else int.from_bytes(digest[1:]) / 2**16

    return of


def cells(lags: Sequence[int], workers: int, seeds: int) -> Iterator[str]:
    """Yield "0–5 %" for each lag."""
    for lag in lags:
        shares = [
            share_waited(brackets, workers, lag, outcome(seed, diverging))
            for brackets in PLANS
            for diverging in DIVERGING
            for seed in range(seeds)
        ]
        yield f"{100 * min(shares):.1f}–{100 * max(shares):.1f} %"


def numbers(text: str) -> list[int]:
    """Read whole numbers that commas separate; an argparse type."""
    return [int(each) for each in text.split(",")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lags", type=numbers, default=[8, 16, 24], metavar="L,…")
    parser.add_argument("--workers", type=numbers, default=[2, 4, 8], metavar="N,…")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, …")
    options = parser.parse_args()
    rows = [(str(workers), *cells(options.lags, workers, options.seeds)) for workers in options.workers]
    print(table(("workers", *(f"--lag {lag}" for lag in options.lags)), rows))


if __name__ == "__main__":
    main()
