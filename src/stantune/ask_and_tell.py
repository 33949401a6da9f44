"""open_search(): a search whose trainings another program does, by ask and tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from stantune.outcome import Cost, Outcome
from stantune.protocols import Objective, Segment
from stantune.search.result import SearchResult
from stantune.search.session import RETRIES, Session, open_session
from stantune.search.settings import SearchSettings
from stantune.search.table.directory import SearchDirectory
from stantune.search.table.start_from import starting_from
from stantune.search.workers.executors import Failure
from stantune.space import Space
from stantune.study import compose, path_of


class OpenSearch:
    """A search by ask and tell: your own program trains, in whatever way it likes.

    Attributes:
        objective: what is searched.
        settings: what the result depends on.
    """

    def __init__(self, objective: Objective, settings: SearchSettings, session: Session, path: Path) -> None:
        self.objective = objective
        self.settings = settings
        self._session = session
        self._path = path

    def ask(self) -> Segment | None:
        """Return a segment to train; None where nothing may begin until more is told, or all is done.

        Several may be asked for before any is told of; they do not depend on one another.
        """
        return self._session.ask()

    def tell(self, segment: Segment, metrics: Mapping[str, float] | None, seconds: float = 0.0) -> None:
        """Tell what a segment came to: its metrics, None where it diverged. `seconds` is what it took."""
        cost = Cost(exact=segment.stop - segment.start, exact_seconds=seconds)
        diverged = segment.stop if metrics is None else None
        self._session.tell(segment, Outcome(segment.stop, dict(metrics or {}), diverged, False, cost))

    def fail(self, segment: Segment, cause: str) -> None:
        """Tell that a segment failed, and why; it is given again, and after a few times its trial is given up."""
        self._session.tell(segment, Failure(cause))

    @property
    def result(self) -> SearchResult:
        """What the search has come to so far."""
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
    rates: Sequence[float] | Literal["auto"] = (),
    start_from: Path | str | None = None,
    **others: Any,
) -> Iterator[OpenSearch]:
    """Open a search that you train yourself, by ask and tell; see `tune` for the arguments.

    What was told stays, also after a kill; a segment that was given and not told of is given again. In the end
    `result.json` is written.
    """
    what, settings = compose(
        None,
        space,
        max_resource,
        min_resource,
        rates,
        unit=unit,
        minimize=minimize,
        maximize=maximize,
        name=name,
        **{"seed": 0, **others},
    )
    directory = SearchDirectory(path_of(out, what), storage)
    with directory.locked():
        if fresh:
            directory.clear()
        if start_from is not None:
            settings = starting_from(settings, what, directory, SearchDirectory.begun(Path(start_from), storage))
        with open_session(what, settings, directory, retries=retries) as session:
            opened = OpenSearch(what, settings, session, directory.path)
            yield opened
            summary = opened.result.summary
        directory.write_result(f"{summary.model_dump_json(indent=2)}\n")
