"""The final trainings: whose settings are trained exactly, from scratch, which wins, and where each was best."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stantune.protocols import Metric, best_point, compared_value
from stantune.search.plan.standings import Standing, ranking
from stantune.search.plan.values import Final, FinalResult, TrialRow


def weights_of(rank: int) -> str:
    """Return the name of the file with a finalist's weights."""
    return f"final-{rank + 1}.pt" if rank else "final.pt"


def best_weights_of(rank: int) -> str:
    """Return the name of the file with the weights of a finalist's best evaluation."""
    return f"best-{rank + 1}.pt" if rank else "best.pt"


def ranks_in(names: Iterable[str]) -> set[int]:
    """Return the ranks of the finalists whose weights are in files of these names; other names are passed over."""
    return {int(found[1] or 1) - 1 for found in map(_WEIGHTS.fullmatch, names) if found}


_WEIGHTS = re.compile(r"(?:final|best)(?:-([2-9]|[1-9]\d+))?\.pt")
SCRATCH, CONTINUE, NONE = FINAL = ("scratch", "continue", "none")
# So many more settings are trained, one by one, where all that were asked for diverged.
SUBSTITUTES = 3


def with_substitutes(count: int, results: Mapping[int, FinalResult]) -> int:
    """Return how many final trainings there are to be where `count` are asked for, none or more.

    While all that there are diverged there is one more, of the next setting of the ranking, `SUBSTITUTES` at most: who
    searches over night is to find a trained network, and the best settings are often next to those that diverge.

    Args:
        count: how many are asked for.
        results: what final trainings came to, by rank; some of them may be missing, or beyond `count`.
    """
    most = count + SUBSTITUTES if count else 0
    while count < most and all(rank in results and results[rank].diverged_at is not None for rank in range(count)):
        count += 1
    return count


def contenders(rows: Sequence[TrialRow], whole: int, how: str = SCRATCH) -> list[Standing]:
    """Return the ranking of those that may be finalists, whose ranks are their places in it.

    With "continue" they are the trials that got to R, which is `whole`: of no other one are there such weights.
    """
    return [standing for standing in ranking(rows, whole) if how != CONTINUE or standing.iterations == whole]


def that_count(
    results: Mapping[int, FinalResult], rows: Sequence[TrialRow], whole: int, asked: int, how: str = SCRATCH
) -> dict[int, FinalResult]:
    """Return what those final trainings came to that a search says something of, by rank.

    A table may have others: of settings that were the best before brackets were added, and of more finalists than are
    asked for now.

    Args:
        results: what the table has, by rank.
        rows: the trials, as they are now.
        whole: R.
        asked: how many are asked for, without substitutes.
        how: where they begin, by which they are ranked.
    """
    ranked = enumerate(contenders(rows, whole, how)) if results else ()
    places = {rank: standing.params for rank, standing in ranked if rank in results}
    sound = {rank: results[rank] for rank, params in places.items() if results[rank].params == params}
    count = with_substitutes(asked, sound)
    return {rank: result for rank, result in sound.items() if rank < count}


def finals_of(
    rows: Sequence[TrialRow], count: int, whole: int, how: str = SCRATCH, length: int | None = None
) -> list[Final]:
    """Return the final trainings of a search whose trials are all over: of its best settings, `count` at most.

    Each setting once: all have one seed, and the same would come of it again.

    `whole` is R. They end there, or at `length`. With "continue" they are what trials that got to R have in their
    checkpoints.
    """
    if how == NONE:
        return []
    start, stop = (whole if how == CONTINUE else 0), length or whole
    return [
        Final(rank, standing.number, stop, start)
        for rank, standing in enumerate(contenders(rows, whole, how)[:count])
        if not standing.surpassed
    ]


def trained_for(how: str, length: int) -> int:
    """Return how many iterations a final training of this length trains: none where its trial has trained them all."""
    return 0 if how == CONTINUE else length


class Evaluation(NamedTuple):
    """What a final training was worth at a point: what was measured there, and the file with its weights, if any."""

    iterations: int
    metrics: Mapping[str, float]
    weights: str | None


def last_of(rank: int, result: FinalResult) -> Evaluation:
    """Return the evaluation at a final training's end; without metrics and weights where it diverged."""
    kept = result.kept and result.diverged_at is None
    return Evaluation(result.iterations, result.metrics, weights_of(rank) if kept else None)


def best_of(rank: int, result: FinalResult, metric: Metric) -> Evaluation | None:
    """Return a final training's best evaluation, on the way or at its end; None where nothing was measured.

    Its weights are in a file of their own where the training was followed on its way, else the best is the last.
    """
    at = best_point(metric, result.curve)
    if at is not None:
        return Evaluation(at, result.curve[at], best_weights_of(rank) if result.best_kept else None)
    return last_of(rank, result) if result.metrics else None


def winner_of(results: Mapping[int, FinalResult], metric: Metric) -> int | None:
    """Return the rank of the winner: the best value of {rank: what a final training came to}.

    Ties go to the better rank. A training that diverged wins where all did. None where there are no results.
    """

    def order(rank: int) -> tuple[float, int]:
        value = compared_value(metric, results[rank].metrics)
        return float("inf") if value is None else metric.loss(value), rank

    return min(results, key=order, default=None)
