"""A search whose trainings are replaced by a hash, for the tests of the coordinator and the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from stantune.outcome import Cost
from stantune.parameters import Categorical, Float, Integer
from stantune.protocols import Metric
from stantune.search.plan.coordinator import endings, ready_jobs
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.values import FinalResult, Job, TrialRow
from stantune.search.propose.sampling import sample
from stantune.search.table.store import Store
from stantune.space import Space

SPACE = Space(
    {
        "lr": Float(5e-5, 5, log=True),
        "momentum": Float(0.0, 0.99),
        "hidden": Integer(100, 8192),
        "pool": Categorical(("max", "average", None)),
    }
)
METRIC = Metric("error")
IDENTITY = {"seed": 0, "problem": {"name": "simulated", "iterations": 27}}

Outcome = Callable[[int, int], float | None]


def outcome(salt: int, levels: int = 5, diverging: int = 64) -> Outcome:
    """Return the outcomes of a search: per trial and rung an error out of few levels (so ties), or None."""

    def of(number: int, stop: int) -> float | None:
        digest = hashlib.blake2b(f"{salt} {number} {stop}".encode(), digest_size=2).digest()
        return None if digest[0] < diverging else (digest[1] % levels) / 7

    return of


def run_job(store: Store, job: Job, of: Outcome) -> None:
    """Do what a search does for one job."""
    if job.number == len(store.rows()):
        store.create(job.number, sample(SPACE, 0, job.number), job.bracket)
    error, cost = of(job.number, job.stop), Cost(exact=job.stop - job.start, exact_seconds=0.25)
    if error is None:
        store.record_divergence(job.number, job.stop, job.start + 1, cost)
    else:
        store.record(job.number, job.stop, {METRIC.name: error}, cost)


def search(store: Store, plan: Sequence[Bracket], of: Outcome) -> None:
    """Run or go on with a search until it is done."""
    while True:
        store.close(endings(plan, store.rows()))
        jobs = ready_jobs(plan, store.rows())
        if not jobs:
            break
        for job in jobs:
            run_job(store, job, of)
    store.set_final(0, FinalResult(store.rows()[0].params, 0, {METRIC.name: 0.0}, None, Cost()))


def after(rows: Sequence[TrialRow], job: Job, of: Outcome) -> list[TrialRow]:
    """Return the rows with one job done, without any store."""
    table = {row.number: row for row in rows}
    row = table.get(job.number, TrialRow(job.number, job.bracket, {}))
    error = of(job.number, job.stop)
    if error is None:
        table[job.number] = TrialRow(row.number, row.bracket, {}, row.errors, job.start + 1)
    else:
        table[job.number] = TrialRow(row.number, row.bracket, {}, {**row.errors, job.stop: error})
    return [table[number] for number in sorted(table)]
