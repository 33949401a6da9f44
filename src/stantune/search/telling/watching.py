"""How a search tells what it does to whoever watches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stantune.search.plan.values import Training
from stantune.search.telling.progress import Progress


class Watcher(Protocol):
    """Is told what a search does; draws it or not."""

    def job(self, job: Training, progress: Progress) -> None:
        """A training begins."""
        ...

    def iteration(self, progress: Progress) -> None:
        """Iterations were trained, or time has passed; called often."""
        ...

    def failure(self, job: Training, cause: str, for_good: bool) -> None:
        """A training failed; unless it did so for good, it is tried again."""
        ...


class Silent:
    """Draws nothing."""

    def job(self, job: Training, progress: Progress) -> None:
        """Draw nothing."""

    def iteration(self, progress: Progress) -> None:
        """Draw nothing."""

    def failure(self, job: Training, cause: str, for_good: bool) -> None:
        """Draw nothing."""


class Together:
    """Tells several watchers of everything."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        """Tell these, in this order."""
        self._watchers = watchers

    def job(self, job: Training, progress: Progress) -> None:
        """See Watcher."""
        for watcher in self._watchers:
            watcher.job(job, progress)

    def iteration(self, progress: Progress) -> None:
        """See Watcher."""
        for watcher in self._watchers:
            watcher.iteration(progress)

    def failure(self, job: Training, cause: str, for_good: bool) -> None:
        """See Watcher."""
        for watcher in self._watchers:
            watcher.failure(job, cause, for_good)
