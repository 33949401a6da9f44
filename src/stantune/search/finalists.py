"""The final trainings of a search: which are left, and what those that are over came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from stantune.protocols import Metric, compared_value
from stantune.search.directory.directory import SearchDirectory
from stantune.search.plan.finals import contenders, finals_of, that_count, with_substitutes
from stantune.search.plan.values import Final, FinalResult, TrialRow
from stantune.search.settings import SearchSettings
from stantune.search.table.store import Store
from stantune.search.workers.executors import Failure


class Finalists:
    """Keeps what final trainings came to in the table, and their weights with it.

    Of each rank the files are those of what the table has; where it has nothing, those of the training that is under
    way, which the next call goes on with.
    """

    def __init__(
        self, settings: SearchSettings, metric: Metric, store: Store, directory: SearchDirectory, retries: int
    ) -> None:
        """Begin with those of an earlier call, which may have asked for more."""
        self._settings = settings
        self._metric = metric
        self._store = store
        self._directory = directory
        self._retries = retries
        self._results = store.finals()
        self._failures: Counter[Final] = Counter()
        # Those whose checkpoint was of no use once.
        self._begun_anew: set[Final] = set()

    def over(self, rows: Sequence[TrialRow]) -> dict[int, FinalResult]:
        """Return what those that are over came to, by rank, of those that there are to be."""
        settings = self._settings
        return that_count(self._results, rows, settings.max_resource, settings.finals, settings.final)

    def left(self, rows: Sequence[TrialRow]) -> list[Final]:
        """Return those that are neither over nor given up, of a table whose trials all are. Raises StoreError."""
        ranked = contenders(rows, self._settings.max_resource, self._settings.final)
        for rank, result in sorted(self._results.items()):
            if rank >= len(ranked) or result.params != ranked[rank].params:
                # More brackets were added since, or an earlier version counted otherwise, and another trial has its
                # place; so has what is only begun.
                stale = (rank, *(self._directory.ranks() - self._results.keys()))
                files = [file for one in stale for file in (self._directory.final(one), self._directory.best(one))]
                self._drop(rank, self._directory.discard, files)
        for final in self._wanted(rows):
            if final.rank in self._results:
                self._look_after(final.rank)
        return [
            final
            for final in self._wanted(rows)
            if final.rank not in self._results and self._failures[final] <= self._retries
        ]

    def finish(self, rank: int, result: FinalResult) -> FinalResult:
        """Keep what one came to; return it with what is known of its weights. Raises StoreError."""
        weights, best = self._directory.final(rank), self._directory.best(rank)
        if result.diverged_at is not None:
            # Weights on the way to that are no winner's, and nobody is to take them for such.
            self._directory.discard(weights)
        # A value that is none is no JSON, and the best of nothing.
        curve = {at: found for at, found in result.curve.items() if compared_value(self._metric, found) is not None}
        result = replace(result, curve=curve)
        result = replace(result, kept=self._directory.holds(weights), digest=self._directory.digest(weights))
        if result.curve:
            result = replace(result, best_kept=self._directory.holds(best), best_digest=self._directory.digest(best))
        self._store.set_final(rank, result)
        self._results[rank] = result
        return result

    def failed(self, job: Final, failure: Failure) -> bool:
        """Take it that one failed; return whether it has failed for good."""
        if failure.damaged and job not in self._begun_anew:
            # What befell a file says nothing of the training, which begins without it.
            self._begun_anew.add(job)
            return False
        self._failures[job] += 1 if failure.again else self._retries + 1
        return self._failures[job] > self._retries

    def _wanted(self, rows: Sequence[TrialRow]) -> list[Final]:
        settings = self._settings
        count = with_substitutes(settings.finals, self.over(rows))
        return finals_of(rows, count, settings.max_resource, settings.final, settings.final_resource)

    def _look_after(self, rank: int) -> None:
        """Drop one whose weights are not there as they were: what is announced must be there."""
        kept = self._results[rank]
        announced = {self._directory.final(rank): kept.digest, self._directory.best(rank): kept.best_digest}
        altered = [
            weights
            for weights, digest in announced.items()
            if digest is not None and digest != self._directory.digest(weights)
        ]
        if altered:
            self._drop(rank, self._directory.set_aside, altered)

    def _drop(self, rank: int, away: Callable[[Path], None], files: Sequence[Path]) -> None:
        """Have files out of the way, and then what the table says.

        Whoever is killed in between does it again, and what a new training leaves is never taken for the old one's.
        """
        for weights in files:
            away(weights)
        self._store.drop_final(rank)
        del self._results[rank]
