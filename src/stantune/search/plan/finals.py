"""The final trainings: whose settings are trained exactly, from scratch, and which of them is the search's winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stantune.search.plan.rows import TrialRow
from stantune.search.plan.standings import ranking


@dataclass(frozen=True)
class Final:
    """Train the setting of trial `number`, the finalist of this rank (0 is the best), from scratch to `stop`."""

    rank: int
    number: int
    stop: int
    start: int = 0


def weights_of(rank: int) -> str:
    """Return the name of the file with a finalist's weights."""
    return f"final-{rank + 1}.pt" if rank else "final.pt"


def finals_of(rows: Sequence[TrialRow], count: int, stop: int) -> list[Final]:
    """Return the final trainings of a search whose trials are all over: of its best settings, `count` at most."""
    return [Final(rank, standing.number, stop) for rank, standing in enumerate(ranking(rows)[:count])]


def winner_of(results: Mapping[int, Mapping[str, Any]]) -> int | None:
    """Return the rank of the winner: the lowest validation error of {rank: what a final training came to}.

    Ties go to the better rank. A training that diverged wins where all did. None where there are no results.
    """
    return min(results, key=lambda rank: (results[rank]["errors"].get("validation", float("inf")), rank), default=None)
