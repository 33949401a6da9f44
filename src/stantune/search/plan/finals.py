"""The final trainings: whose settings are trained exactly, from scratch, and which of them is the search's winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stantune.protocols import Metric, compared_value
from stantune.search.plan.standings import ranking
from stantune.search.plan.values import Final, FinalResult, TrialRow


def weights_of(rank: int) -> str:
    """Return the name of the file with a finalist's weights."""
    return f"final-{rank + 1}.pt" if rank else "final.pt"


def finals_of(rows: Sequence[TrialRow], count: int, stop: int) -> list[Final]:
    """Return the final trainings of a search whose trials are all over: of its best settings, `count` at most."""
    return [Final(rank, standing.number, stop) for rank, standing in enumerate(ranking(rows)[:count])]


def winner_of(results: Mapping[int, FinalResult], metric: Metric) -> int | None:
    """Return the rank of the winner: the best value of {rank: what a final training came to}.

    Ties go to the better rank. A training that diverged wins where all did. None where there are no results.
    """

    def order(rank: int) -> tuple[float, int]:
        value = compared_value(metric, results[rank].metrics)
        return float("inf") if value is None else metric.loss(value), rank

    return min(results, key=order, default=None)
