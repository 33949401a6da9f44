"""How a search tells what it does to whoever watches it."""

from __future__ import annotations

from typing import Protocol

from stantune.search.coordinator import Job
from stantune.search.progress import Progress


class Watcher(Protocol):
    """Is told what a search does; draws it or not."""

    def job(self, job: Job | None, progress: Progress) -> None:
        """A job begins; None stands for the final training."""
        ...

    def iteration(self, progress: Progress) -> None:
        """Iterations were trained."""
        ...

    def failure(self, job: Job | None, cause: str, for_good: bool) -> None:
        """A job failed; unless it did so for good, it is tried again."""
        ...


class Silent:
    """Draws nothing."""

    def job(self, job: Job | None, progress: Progress) -> None:
        """Draw nothing."""

    def iteration(self, progress: Progress) -> None:
        """Draw nothing."""

    def failure(self, job: Job | None, cause: str, for_good: bool) -> None:
        """Draw nothing."""
