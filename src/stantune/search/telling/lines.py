"""What a search does, in a line for each rung of each bracket, for each final training, and for each minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from stantune.quantities import duration
from stantune.search.plan.validation import part_text
from stantune.search.plan.values import Final, Training
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Silent

# Who reads lines is to see at least so often that a search goes on.
LINE_SECONDS = 60.0


class Lines(Silent):
    """Says a line where a rung, or a final training, begins, where a training fails, and else each minute.

    See watching.Watcher.
    """

    def __init__(self, say: Callable[[str], None], warn: Callable[[str], None] | None = None) -> None:
        """Have lines said by `say`, and those on failures by `warn`, if that is another one."""
        self._say = say
        self._warn = say if warn is None else warn
        self._said = time.monotonic()
        self._begun: set[tuple[str, int]] = set()

    def job(self, job: Training, progress: Progress) -> None:
        """Say where another rung begins."""
        if isinstance(job, Final):
            what = f"final training of trial {job.number}"
        else:
            bracket = progress.bracket_of(job)
            if (bracket, job.stop) in self._begun:
                return
            self._begun.add((bracket, job.stop))
            what = f"bracket {bracket}, rung of {job.stop} {progress.unit}s"
        self._tell(what, progress)

    def iteration(self, progress: Progress) -> None:
        """Say where the oldest training is, if nothing was said for long."""
        if time.monotonic() - self._said < LINE_SECONDS:
            return
        running = list(progress.running.items())
        if running:
            (job, at), more = running[0], len(running) - 1
            others = f", and {more} more" if more else ""
            self._tell(f"trial {job.number}, {progress.unit} {at} of {job.stop}{others}", progress)

    def failure(self, job: Training, cause: str, for_good: bool) -> None:
        """Say it."""
        self._warn(failure_text(job, cause, for_good))

    def _tell(self, what: str, progress: Progress) -> None:
        self._said = time.monotonic()
        self._say(f"{what}: {'; '.join(_state(progress))}")


def counts(progress: Progress) -> tuple[str, str]:
    """Say how many trials stand where, those that go on and the others.

    Those that wait do so for their rung's end, or for a place in the next one.
    """
    status = progress.status
    return (
        f"{progress.trials} of {progress.planned}; {len(progress.running)} training, "
        f"{status.running - progress.trials_running} waiting",
        f"{status.promoted} promoted, {status.dropped} dropped, {status.diverged} diverged"
        + (f", {status.failed} failed" if status.failed else "")
        + (f"; {progress.retried} begun again" if progress.retried else ""),
    )


def best_text(progress: Progress) -> str:
    """Say what the best trial is worth so far."""
    return f"{progress.metric.text(progress.best)}{part_text(progress.best_share)}"


def failure_text(job: Training, cause: str, for_good: bool) -> str:
    """Say which training failed, and what comes of it."""
    if isinstance(job, Final):
        which = f"the final training of trial {job.number}"
    else:
        which = f"trial {job.number}, on its way to {job.stop},"
    return f"{which} failed ({cause}): {'given up' if for_good else 'tried again'}"


def _state(progress: Progress) -> Iterator[str]:
    yield f"trials {', '.join(counts(progress))}"
    if progress.best is not None:
        yield f"best {progress.metric.name} {best_text(progress)}"
    if progress.seconds_left is not None:
        yield f"{progress.iterations_per_second:.1f} {progress.unit}s/s, about {duration(progress.seconds_left)} left"
