"""What is seen while a search runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Column, Table

from stantune.quantities import duration
from stantune.search.plan.values import Final, Training
from stantune.search.telling.lines import Lines, best_text, counts, failure_text
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Silent, Watcher

REDRAW_SECONDS = 0.25
# Of a large table's view that takes long to draw, there is at least so many times as long between two drawings.
PAUSES = 10
# Trainings that the view has room for.
SHOWN = 12
# Where a bar has no room beside its figures, they are shown alone.
BAR_COLUMNS = 48


class LiveView(Silent):
    """Redraws a small table in place, a few times a second."""

    def __init__(self, console: Console) -> None:
        self.live = Live(console=console, transient=True, auto_refresh=False)
        self._next = 0.0
        self._begun = False

    def job(self, job: Training, progress: Progress) -> None:
        """Show the new job."""
        self._draw(progress)

    def failure(self, job: Training, cause: str, for_good: bool) -> None:
        """Write a line above the table, which stays."""
        self.live.console.print(failure_text(job, cause, for_good), soft_wrap=True)

    def iteration(self, progress: Progress) -> None:
        """Show how far it is."""
        self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        # Not more often than the eye can follow: drawing takes time from training. The first training is shown at once.
        begun = bool(progress.running) and not self._begun
        before = time.monotonic()
        if before < self._next and not begun:
            return
        self._begun = bool(progress.running)
        # What does not fit goes on in the next line, and is not cut.
        table = Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2))
        running = list(progress.running.items())
        for job, at in running[:SHOWN]:
            which = "final training" if isinstance(job, Final) else f"bracket s = {job.bracket}"
            table.add_row(f"trial {job.number}", f"{progress.unit} {at} of {job.stop}, {which}")
        if len(running) > SHOWN:
            table.add_row("", f"and {len(running) - SHOWN} more")
        for label, words in zip(("trials", ""), counts(progress), strict=True):
            table.add_row(label, words)
        table.add_row(f"best {progress.metric.name}", best_text(progress))
        table.add_row("speed", f"{progress.iterations_per_second:.1f} {progress.unit}s/s")
        table.add_row("time left", duration(progress.seconds_left))
        self.live.update(table, refresh=True)
        after = time.monotonic()
        self._next = after + max(REDRAW_SECONDS, PAUSES * (after - before))


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """Give the live view where the console is a terminal, lines elsewhere; what it drew is gone at the end."""
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, soft_wrap=True))
        return
    view = LiveView(console)
    with view.live:
        yield view


@contextmanager
def training_progress(console: Console, iterations: int) -> Iterator[Callable[[int], None]]:
    """Give a function that is told the iterations done: a bar on a terminal, a line for each tenth elsewhere."""
    if not console.is_terminal:
        tenth = max(iterations // 10, 1)

        def say(done: int) -> None:
            if done % tenth == 0:
                console.print(f"iteration {done} of {iterations}")

        yield say
        return
    columns: list[ProgressColumn] = [TextColumn("{task.completed} of {task.total} iterations")]
    if console.width >= BAR_COLUMNS:
        columns += [BarColumn(), TimeRemainingColumn()]
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("training", total=iterations)
        yield lambda done: bar.update(task, completed=done)
