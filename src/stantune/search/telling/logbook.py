"""Tells loggers what the trial table says, each thing once, however often the search is ended and goes on."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stantune.errors import words_of
from stantune.loss_curve import NO_LOSSES
from stantune.outcome import Cost
from stantune.protocols import Objective
from stantune.search.plan.standings import ranking
from stantune.search.plan.values import FinalResult, TrialRow
from stantune.search.table.storages.masking import without_secrets
from stantune.search.telling.loggers import LoggedSearch, LoggedSegment, LoggedTraining, Logger
from stantune.texts import one_line

# Letters of a search's name in its key.
_NAME_LENGTH = 40
# Keys as they are made here; loggers have folders of such names, so that a note from elsewhere may not say any other.
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-[0-9a-f]{8}")


class Logbook:
    """Tells loggers, and notes in a file of the search's directory what each was told.

    A thing is noted after it was told: a process that is killed between the two tells it again.
    """

    def __init__(self, loggers: Sequence[Logger], file: Path, say: Callable[[str], None]) -> None:
        """Read what was told before.

        Args:
            loggers: are told.
            file: the notes; not there before anything was told, and never where there are no loggers.
            say: takes a line for the user.
        """
        self._loggers = list(loggers)
        self._file = file
        self._say = say
        self._key: str | None = None
        self._told: set[tuple[str, ...]] = set()
        self._writable = True
        for line in self._lines() if self._loggers else ():
            if isinstance(line, dict):
                if _KEY.fullmatch(key := str(line.get("search"))):
                    self._key = key
            elif isinstance(line, list):
                self._told.add(tuple(map(str, line)))

    def begin(
        self, objective: Objective, identity: Mapping[str, Any], rows: Sequence[TrialRow], finals: Sequence[FinalResult]
    ) -> None:
        """The search begins or goes on; tell what is in its table and was not told."""
        if not self._loggers:
            return
        if self._key is None:
            short = re.sub(r"[^A-Za-z0-9_.-]+", "-", objective.name)[:_NAME_LENGTH].strip("-.") or "search"
            self._key = f"{short}-{uuid.uuid4().hex[:8]}"
            self._note({"search": self._key})
        search = LoggedSearch(
            self._key, objective.name, self._file.parent, objective.metric, objective.unit, dict(identity)
        )
        for logger in list(self._loggers):
            self._call(logger, lambda logger: logger.begin(search))
        for row in rows:
            self.trial(row)
        for final in finals:
            self.final(final, rows)

    def trial(self, row: TrialRow) -> None:
        """Tell what is new of a trial."""
        if not self._loggers:
            return
        training = LoggedTraining(f"trial-{row.number:06d}", row.number, dict(row.params), row.bracket)
        self._tell((training.name,), lambda logger: logger.training(training))
        for mark, segment in _segments(row):
            self._tell_segment(training, mark, segment)

    def ended(self, row: TrialRow, how: str) -> None:
        """A trial is over."""
        if self._loggers:
            self.trial(row)
            self._end(LoggedTraining(f"trial-{row.number:06d}", row.number, dict(row.params), row.bracket), how)

    def final(self, final: FinalResult, rows: Sequence[TrialRow]) -> None:
        """Tell what a final training came to."""
        if not self._loggers:
            return
        # Of equal trials the first in the ranking is the finalist, as where its setting was chosen; before, it was
        # another one, by which loggers may know it.
        names = {f"final-of-{one.number:06d}": one.number for one in ranking(rows) if one.params == final.params}
        told = {name for each in self._told for name in each[1:2]}
        name = next((each for each in names if each in told), next(iter(names), "final-of-000000"))
        training = LoggedTraining(name, names.get(name, 0), dict(final.params), None)
        measured = {at: dict(metrics) for at, metrics in sorted(final.curve.items())}
        if final.diverged_at is None:
            measured[final.iterations] = dict(final.metrics)
        segment = LoggedSegment(
            final.iterations, measured, final.losses.points, final.diverged_at, _seconds(final.cost)
        )
        self._tell((training.name,), lambda logger: logger.training(training))
        self._tell_segment(training, str(final.iterations), segment)
        self._end(training, "finished" if final.diverged_at is None else "diverged")

    def close(self) -> None:
        """The search is complete, or ends for now."""
        for logger in list(self._loggers):
            self._call(logger, lambda logger: logger.close())

    def _tell_segment(self, training: LoggedTraining, mark: str, segment: LoggedSegment) -> None:
        self._tell((training.name, mark), lambda logger: logger.segment(training, segment))

    def _end(self, training: LoggedTraining, how: str) -> None:
        self._tell((training.name, "ended"), lambda logger: logger.ended(training, how))

    def _tell(self, what: tuple[str, ...], call: Callable[[Logger], None]) -> None:
        """Have those called that were not told before."""
        for logger in list(self._loggers):
            told = (logger.name, *what)
            if told not in self._told and self._call(logger, call):
                self._told.add(told)
                self._note(list(told))

    def _call(self, logger: Logger, call: Callable[[Logger], None]) -> bool:
        """Call a logger; where that fails, it is said, and the logger told nothing more."""
        try:
            call(logger)
        except (Exception, SystemExit) as error:
            self._loggers.remove(logger)
            self._say(
                one_line(
                    f"logger {logger.name} failed and is told nothing more ({without_secrets(words_of(error))}); the "
                    "search goes on, and the same call tells it later what it missed"
                )
            )
            return False
        return True

    def _lines(self) -> Iterator[Any]:
        with contextlib.suppress(OSError):
            for line in self._file.read_bytes().splitlines():
                # One that was cut by a kill was told, and is not known.
                with contextlib.suppress(ValueError, RecursionError):
                    yield json.loads(line)

    def _note(self, line: Any) -> None:
        if not self._writable:
            return
        try:
            with self._file.open("ab") as file:
                # On a line of its own also behind one that was cut.
                file.write(f"\n{json.dumps(line)}".encode())
        except OSError as error:
            self._writable = False
            self._say(
                f"{self._file} cannot be written ({error.strerror or error}), so that loggers may be told some of this "
                "run again"
            )


def _segments(row: TrialRow) -> Iterator[tuple[str, LoggedSegment]]:
    """Yield all that a trial came to, each with what tells it from the others."""
    end = 0
    for stop in sorted(row.errors):
        losses = row.losses.get(stop, NO_LOSSES)
        measured = {stop: dict(row.metrics.get(stop, {}))}
        yield str(stop), LoggedSegment(stop, measured, losses.after(end), None, _seconds(row.costs.get(stop, Cost())))
        end = max(end, losses.end)
    if row.diverged_at is not None:
        lost = max((stop for stop in row.costs if stop not in row.errors), default=0)
        losses = row.losses.get(lost, NO_LOSSES)
        seconds = _seconds(row.costs.get(lost, Cost()))
        yield "diverged", LoggedSegment(row.diverged_at, {}, losses.after(end), row.diverged_at, seconds)


def _seconds(cost: Cost) -> float:
    return cost.training_seconds + cost.evaluation_seconds
