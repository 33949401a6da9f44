"""Searches of which only the proposals matter: a space, tables of trials, and a sampler that keeps what it is asked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from stantune.parameters import Categorical, Float, Integer
from stantune.search.plan.coordinator import ready_jobs
from stantune.search.plan.values import PastTrial, TrialRow, WarmStart
from stantune.search.propose.proposals import Proposals
from stantune.search.propose.sampler import Asked
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings
from stantune.space import Space

SPACE = Space(
    {
        "lr": Float(1e-4, 1, log=True),
        "width": Integer(1, 64),
        "kind": Categorical(("plain", "deep")),
        "depth": Integer(2, 9),
    },
    when={"depth": {"kind": "deep"}},
)
MODELS = ["tpe", "bohb"]
PINNED = Space({**SPACE, "fixed": Float(1, 1)}, when={"depth": {"kind": "deep"}})


def trained(params: Mapping[str, Any], stop: int) -> float | None:
    """Return an error that depends on every bit of the setting."""
    digest = hashlib.blake2b(repr((stop, sorted(params.items()))).encode(), digest_size=1).digest()[0]
    distance = abs(math.log10(params["lr"]) + 2) * 20 + abs(params.get("depth", 2) - 7) * 3
    return None if digest < 20 else round(distance + digest / 32 - math.log(stop), 4)


def searched(search: SearchSettings, space: Space = PINNED) -> tuple[list[TrialRow], tuple[PastTrial, ...]]:
    """Run a search by one worker; return its table, also as another search's past."""
    plan, proposals = search.plan(), Proposals(space, search)
    rows: list[TrialRow] = []
    results: list[dict[int, float | None]] = []
    while jobs := ready_jobs(plan, rows):
        job = jobs[0] if jobs[0].number < max(len(rows), proposals.begins(rows)) else jobs[1]
        if job.number == len(rows):
            params = proposals.propose(job.number, rows)
            rows.append(TrialRow(job.number, job.bracket, params, started_from=proposals.started_from(job.number)))
            results.append({})
        row = rows[job.number]
        results[job.number][job.stop] = error = trained(row.params, job.stop)
        errors = row.errors if error is None else {**row.errors, job.stop: error}
        diverged_at = job.start + 1 if error is None else None
        rows[job.number] = TrialRow(
            row.number, row.bracket, row.params, errors, diverged_at, started_from=row.started_from
        )
    return rows, tuple(PastTrial(row.number, row.params, of) for row, of in zip(rows, results, strict=True))


def start_of(past: Sequence[PastTrial]) -> WarmStart:
    """Return the start from an earlier search of these trials."""
    return WarmStart("earlier", "label", tuple(past), tuple(sorted(past, key=lambda trial: trial.worth))[:3])


def rows_of(errors: list[dict[int, float] | None], space: Space = SPACE) -> list[TrialRow]:
    """Return a table of the first bracket; None stands for a trial that diverged."""
    return [
        TrialRow(number, 3, sample(space, 5, number), of or {}, 1 if of is None else None)
        for number, of in enumerate(errors)
    ]


class Told:
    """A sampler of a user's, which keeps what it was asked."""

    name = "told"
    identity: Mapping[str, Any] = {"a": 1}

    def __init__(self, waits: bool = True, **changes: Any) -> None:
        self.waits = waits
        self.asked: list[Asked] = []
        self.changes = changes

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        self.asked.append(asked)
        return {**sample(asked.space, asked.seed + 5, asked.number), **self.changes}
