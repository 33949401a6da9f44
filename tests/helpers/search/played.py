"""A whole search without trainings, by any number of workers that finish in any order and are killed now and then."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from optuna.storages import InMemoryStorage

from stantune.protocols import Metric
from stantune.search.plan.coordinator import endings, ready_jobs, take_overs
from stantune.search.plan.values import Job, TrialRow
from stantune.search.propose.proposals import Proposals
from stantune.search.settings import SearchSettings
from stantune.search.table.store import Store
from stantune.space import Space

Train = Callable[[int, Mapping[str, Any], int], float | None]
METRIC = Metric("error")


class Played(NamedTuple):
    """What a search came to: its table, the jobs that were trained, and how long workers waited for a proposal."""

    rows: list[TrialRow]
    trained: list[Job]
    waited: float


def train(number: int, params: Mapping[str, Any], stop: int) -> float | None:
    """Return an error that falls with the iterations, is lowest in the middle of a space, and depends on the trial."""
    digest = hashlib.blake2b(f"{number} {stop} {sorted(params.items())!r}".encode(), digest_size=2).digest()
    if digest[0] < 32:
        return None
    texts = "".join(str(value) for value in params.values()).encode()
    return round(40 + digest[1] / 16 + hashlib.blake2b(texts, digest_size=1).digest()[0] / 8 - math.log(stop), 2)


def play(
    space: Space,
    settings: SearchSettings,
    *,
    workers: int = 1,
    order: int | None = None,
    kill: float = 0.0,
    train: Train = train,
) -> Played:
    """Run a search; jobs take a time in proportion to their iterations, or any time where `order` seeds it.

    `kill` is the chance that all is killed after a result, and begun anew from the table.
    """
    dice, plan = random.Random(order), settings.plan()
    storage, identity = InMemoryStorage(), {"seed": settings.seed}
    trained: list[Job] = []
    waited = 0.0
    while True:
        store = Store(storage, "played", identity, space, "memory", METRIC, settings.start)
        proposals = Proposals(space, settings)
        running: dict[Job, float] = {}
        now = 0.0
        while True:
            while taken := take_overs(plan, store.rows()):
                for take_over in taken:
                    store.take_over(take_over)
            store.close(endings(plan, store.rows()))
            ready = [job for job in ready_jobs(plan, store.rows()) if job not in running]
            if not ready and not running:
                return Played(store.rows(), trained, waited)
            voided, waiting = False, 0
            for job in ready[: workers - len(running)]:
                rows = store.rows()
                if job.number >= len(rows):
                    if job.number >= proposals.begins(rows):
                        waiting = workers - len(running)
                        break
                    past = proposals.started_from(job.number)
                    store.create(job.number, proposals.propose(job.number, rows), job.bracket, past)
                    voided |= bool(store.rows()[job.number].equals)
                    if store.rows()[job.number].equals:
                        continue
                running[job] = now + (job.stop - job.start if order is None else dice.random())
            if not running:
                assert voided, "nothing runs and nothing can begin"
                continue
            job = min(running, key=lambda job: (running[job], job))
            before, now = now, running.pop(job)
            waited += waiting * (now - before)
            trained.append(job)
            error = train(job.number, store.rows()[job.number].params, job.stop)
            if error is None:
                store.record_divergence(job.number, job.stop, job.start + 1)
            else:
                store.record(job.number, job.stop, {METRIC.name: error})
            if dice.random() < kill:
                break
