"""What a search has come to, for those who ask it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stantune.protocols import Metric
from stantune.search.plan.finals import SCRATCH, contenders, winner_of
from stantune.search.plan.hyperband import Bracket, stops_of
from stantune.search.plan.standings import Standing
from stantune.search.plan.values import FinalResult, TrialRow


class SearchState(NamedTuple):
    """What a search has come to.

    Attributes:
        plan: its brackets, as far as they are chosen.
        rows: the trial table.
        finals: what each final training that is over came to, by its finalist's rank.
        metric: what trials are compared by.
        complete: all that the plan asks for is done; trials that failed for good count as done.
        final_failure: why a final training failed for good, None where none did; the next call tries it again.
        final_training: where final trainings begin, by which finalists are ranked.
    """

    plan: tuple[Bracket, ...]
    rows: list[TrialRow]
    finals: Mapping[int, FinalResult]
    metric: Metric
    complete: bool
    final_failure: str | None = None
    final_training: str = SCRATCH

    @property
    def whole(self) -> int:
        """R: how far a trial is trained that is never dropped."""
        return stops_of(self.plan)[-1]

    @property
    def contenders(self) -> list[Standing]:
        """Those who may be finalists, each in the place of its rank."""
        return contenders(self.rows, self.whole, self.final_training)

    @property
    def winner(self) -> int | None:
        """The rank of the finalist that won; None where the search is not complete or found nothing."""
        return winner_of(self.finals, self.metric) if self.complete else None

    @property
    def final(self) -> FinalResult | None:
        """What the winner's final training came to; None where there is no winner."""
        return None if self.winner is None else self.finals[self.winner]
