"""open_search(): a search whose trainings another program does, by ask and tell."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from stantune.arguments import MOST_AT_ONCE, number, path, shown, text, truth, whole
from stantune.errors import StanWarning, StoreError, UsageError
from stantune.objectives.returned import ReturnError, metrics_of
from stantune.outcome import Cost, Outcome
from stantune.protocols import Objective, Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.opening import open_session, plain_identity
from stantune.search.results.result import SearchResult
from stantune.search.session import RETRIES, Session
from stantune.search.settings import SearchSettings
from stantune.search.table.start_from import starting_from
from stantune.search.workers.executors import Failure
from stantune.space import Space
from stantune.tuning.compose import compose
from stantune.tuning.surroundings import begun_in
from stantune.tuning.tune import path_of

# Settings of a search that tune makes itself, or that say how it trains.
_NOT_ASKED = {"plan_name", "rates", "start", "process"}


class OpenSearch:
    """A search by ask and tell: your own program trains, in whatever way it likes, and from as many threads.

    Attributes:
        objective: what is searched.
        settings: what the result depends on.
    """

    def __init__(self, objective: Objective, settings: SearchSettings, session: Session, path: Path) -> None:
        self.objective = objective
        self.settings = settings
        self._session = session
        self._path = path
        self._given: dict[tuple[int, int, int | None], Segment] = {}
        self._over = False
        # Of asking and telling, in which the table must not change between a look and what follows from it.
        self._turn = threading.RLock()

    def ask(self) -> Segment | None:
        """Return a segment to train; None where nothing may begin until more is told, or all is done.

        Several may be asked for before any is told of; they do not depend on one another. Raises UsageError where the
        search is closed.
        """
        with self._turn:
            self._check_open()
            segment = self._session.ask()
            if segment is not None:
                self._given[_key(segment)] = segment
            return segment

    def tell(
        self,
        segment: Segment,
        metrics: Mapping[str, float] | float | None,
        seconds: float = 0.0,
        validation_share: float = 1.0,
    ) -> None:
        """Tell what a segment came to.

        Args:
            segment: one that `ask` gave.
            metrics: by name, or the compared one alone; None where the training diverged.
            seconds: what it took, 0 or more.
            validation_share: by how much of the validation set it was measured; `segment.validation_share` would do.

        Raises:
            UsageError: the compared metric is missing or no number, another one or the time is none, or the segment is
                not one that is waited for; nothing is written then.
            StoreError: it cannot be written; the same may be told again.
        """
        found = {} if metrics is None else self._metrics(metrics)
        share = number("validation_share", validation_share)
        if not 0 < share <= 1:
            raise UsageError(f"`validation_share`={share:g} is no share of a validation set; give 1 for all of it")
        spent = float(number("seconds", seconds))
        if spent < 0:
            raise UsageError(f"`seconds`={shown(seconds)} is no time that a training takes; give 0 or more")
        with self._turn:
            self._check_waited_for(segment)
            cost = Cost(exact=segment.stop - segment.start, exact_seconds=spent)
            diverged = segment.stop if metrics is None else None
            self._pass_on(segment, Outcome(segment.stop, found, diverged, False, cost, validation_share=share))

    def fail(self, segment: Segment, cause: str) -> None:
        """Tell that a segment failed, and why; it is given again, and after a few times its trial is given up."""
        with self._turn:
            self._check_waited_for(segment)
            self._pass_on(segment, Failure(str(cause)))

    def close(self) -> None:
        """Take nothing any more; another program may write to the table from now on."""
        with self._turn:
            try:
                self._look()
            finally:
                # Also where the look failed: nobody may write once the directory is given back.
                self._over = True

    def _look(self) -> None:
        """Have the session look up what may begin: only then it knows whether all is done."""
        if not self._over:
            self._session.may_begin()

    def _metrics(self, told: Mapping[str, float] | float) -> dict[str, float]:
        try:
            return metrics_of(told, self.objective.metric, self.objective.name)
        except ReturnError as error:
            raise UsageError(f"what was told of a segment cannot be taken: {error}") from None

    def _check_waited_for(self, segment: Segment) -> None:
        """Raise UsageError where a segment was not given, or was told of before."""
        self._check_open()
        if not isinstance(segment, Segment):
            raise UsageError(f"{shown(segment)} is no segment; tell each segment that ask() gave")
        given = self._given.get(_key(segment))
        if given is None or _rest(segment) != _rest(given):
            raise UsageError(
                f"the segment of trial {segment.trial} to {segment.stop} is not waited for: it was told of before, or "
                "this search did not give it; tell each segment that ask() gave once"
            )

    def _pass_on(self, segment: Segment, how: Outcome | Failure) -> None:
        """Tell the session; the segment is waited for no longer, unless the table took nothing."""
        given = self._given.pop(_key(segment))
        try:
            self._session.tell(given, how)
        except StoreError:
            self._given[_key(segment)] = given
            raise

    def _check_open(self) -> None:
        if self._over:
            raise UsageError("this search is closed: ask and tell inside of `with open_search(...)`")

    @property
    def result(self) -> SearchResult:
        """What the search has come to so far."""
        with self._turn:
            self._look()
            return SearchResult(self.objective, self.settings, self._session.state, self._path)


@contextmanager
def open_search(
    space: Space,
    *,
    max_resource: int,
    min_resource: int | None = None,
    minimize: str | None = None,
    maximize: str | None = None,
    unit: str = "epoch",
    name: str = "search",
    out: Path | str | None = None,
    storage: str | None = None,
    fresh: bool = False,
    retries: int = RETRIES,
    threads: int | None = None,
    device: str | None = None,
    plan: str = "hyperband",
    start_from: Path | str | None = None,
    **others: Any,
) -> Iterator[OpenSearch]:
    """Open a search that you train yourself, by ask and tell; see `tune` for the arguments.

    `threads` and `device` say with what your program trains. They are noted, and are part of what the search is; where
    they are left out, they are what it was begun with, or 1 and "cpu".

    What was told stays, also after a kill; a segment that was given and not told of is given again. In the end
    `result.json` is written.

    Raises:
        UsageError: something that was asked for cannot be done as asked, or the directory holds another search.
        StantuneError: the search cannot go on; what was told is kept.
    """
    taken = {field.name for field in fields(SearchSettings)} - _NOT_ASKED
    refused = sorted(others.keys() - taken)
    if refused:
        raise UsageError(
            f"`{refused[0]}` is nothing that a search by ask and tell has: your own program trains; leave it away"
        )
    retries = whole("retries", retries, 0)
    truth("fresh", fresh)
    threads = None if threads is None else whole("threads", threads, 1, MOST_AT_ONCE)
    device = None if device is None else text("device", device)
    storage = None if storage is None else text("storage", storage)
    what, settings = compose(
        None,
        space,
        max_resource,
        min_resource,
        unit=unit,
        minimize=minimize,
        maximize=maximize,
        name=name,
        plan=plan,
        **others,
    )
    directory = SearchDirectory(path_of(out, what), storage)
    with directory.locked():
        begun = (None if fresh else begun_in(directory)) or {}
        settings = replace(
            settings,
            threads=begun.get("threads", 1) if threads is None else threads,
            device=begun.get("device", "cpu") if device is None else device,
        )
        if start_from is not None:
            earlier = SearchDirectory.begun(path("start_from", start_from), storage)
            settings = starting_from(settings, what, directory, earlier, fresh, _warn)
        if fresh:
            # Not before all that may be refused is known.
            plain_identity(what, settings)
            directory.clear()
        with open_session(what, settings, directory, retries=retries) as session:
            opened = OpenSearch(what, settings, session, directory.path)
            try:
                yield opened
                opened.close()
            except BaseException:
                # Without another look at the table, which may be what has failed.
                with opened._turn:
                    opened._over = True
                raise
            summary = opened.result.summary
        directory.write_result(f"{summary.model_dump_json(indent=2)}\n")


def _warn(line: str) -> None:
    """Warn at the `with` statement of what `tune` says in a line of its own."""
    # Where warnings are errors, it is no reason not to begin.
    with contextlib.suppress(StanWarning):
        warnings.warn(line.removeprefix("note: "), StanWarning, stacklevel=5)


def _key(segment: Segment) -> tuple[int, int, int | None]:
    return segment.trial, segment.stop, segment.finalist


def _rest(segment: Segment) -> tuple[int | None, int, int, Path]:
    """Return what tells a segment from another search's of the same key; not its setting, which is the trainer's."""
    return segment.bracket, segment.start, segment.seed, segment.checkpoint
