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
        """One more iteration is trained."""
        ...


class Silent:
    """Draws nothing."""

    def job(self, job: Job | None, progress: Progress) -> None:
        """Draw nothing."""

    def iteration(self, progress: Progress) -> None:
        """Draw nothing."""
