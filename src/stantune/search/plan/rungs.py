"""The rungs of a synchronous bracket as a trial table has them: who is in each, and who goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stantune.search.plan.hyperband import Bracket, promote
from stantune.search.plan.values import Result, TrialRow


@dataclass(frozen=True)
class RungState:
    """A rung that has begun.

    Attributes:
        place: its bracket's place in the plan; two brackets may have the same s.
        bracket: its bracket's s.
        index: its place in the bracket.
        start: the iteration at which its trainings begin.
        stop: the iteration at which they end.
        last: whether its trials have nowhere to be promoted to.
        pending: who may be trained, or is being trained.
        results: what is known.
        promoted: who goes on.
        stopped: who will not go on, whatever comes; who diverged may be missing.
    """

    place: int
    bracket: int
    index: int
    start: int
    stop: int
    last: bool
    pending: tuple[int, ...]
    results: tuple[Result, ...]
    promoted: tuple[int, ...]
    stopped: tuple[int, ...]


def rungs_of(bracket: Bracket, place: int, first: int, table: Mapping[int, TrialRow]) -> Iterator[RungState]:
    """Go through the rungs of a bracket that have begun.

    Args:
        bracket: it.
        place: its place in the plan.
        first: the number of its first trial.
        table: rows by their numbers, those of other brackets among them.
    """
    numbers: Sequence[int] = range(first, first + bracket.rungs[0].trials)
    start = 0
    for index, rung in enumerate(bracket.rungs):
        results, pending = [], []
        for number in numbers:
            row = table.get(number)
            assert row is None or row.bracket == bracket.s, f"trial {number} is not of bracket {bracket.s}"
            result = None if row is None else row.result(rung.iterations)
            if result is None:
                pending.append(number)
            else:
                results.append(result)
        last = index == len(bracket.rungs) - 1
        promoted = () if pending or last else promote(results, bracket.rungs[index + 1].trials)
        going_on = set(promoted)
        stopped = () if pending else tuple(number for number, _ in results if number not in going_on)
        yield RungState(
            place, bracket.s, index, start, rung.iterations, last, tuple(pending), tuple(results), promoted, stopped
        )
        if not promoted:
            break
        numbers, start = sorted(promoted), rung.iterations
