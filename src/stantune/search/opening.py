"""open_session: begins a search in its directory, or goes on with the one that is there, and ends it in good order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stantune.errors import UsageError, words_of
from stantune.protocols import Objective
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.last_run import Recorder
from stantune.search.plan.finals import that_count
from stantune.search.session import RETRIES, Session
from stantune.search.settings import SearchSettings
from stantune.search.table.store import Store
from stantune.search.telling.logbook import Logbook
from stantune.search.telling.loggers import Logger
from stantune.search.telling.watching import Silent, Watcher


def plain_identity(objective: Objective, settings: SearchSettings) -> dict[str, Any]:
    """Return all that a search's table depends on; raises UsageError where that is no plain JSON."""
    identity = settings.identity(objective)
    try:
        json.dumps(identity)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the identity of {objective.name} holds what JSON does not take ({words_of(error)}); give plain values"
        ) from error
    return identity


@contextmanager
def open_session(
    objective: Objective,
    settings: SearchSettings,
    directory: SearchDirectory,
    *,
    places: int = 1,
    watcher: Watcher | None = None,
    retries: int = RETRIES,
    accept_changes: bool = False,
    heeds: bool = False,
    loggers: Sequence[Logger] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Session]:
    """Begin a search, or go on with the one that the directory holds. Call it under `directory.locked()`.

    Args:
        objective: what is searched.
        settings: what the result depends on.
        directory: where it is kept.
        places: segments that will be trained at the same time, as far as that is known.
        watcher: is told what happens.
        retries: how often a segment that failed is given again; then its trial has failed for good, and the search goes
            on without it.
        accept_changes: whether it may go on where code has changed since it began.
        heeds: whether the caller ends where somebody asks the directory for it; noted for those who would ask.
        loggers: are told what it comes to.
        say: takes a line where one of them fails.

    Raises:
        UsageError: the directory holds a search with other settings, or the objective's identity is no plain JSON.
        StoreError: the trial table cannot be used.
    """
    settings.check(objective)
    identity = plain_identity(objective, settings)
    with Store.open(
        directory.url,
        directory.study,
        identity,
        objective.space,
        objective.metric,
        settings.start,
        lambda there: settings.extends(there, objective, accept_changes),
        directory.was_begun(),
        settings.plan(),
        directory.new_owner(),
    ) as store:
        directory.note_storage(store.owner())
        if store.extended:
            # What was begun for whoever was the best may not be gone on with for another. Whoever is killed in between
            # finds the search still to be extended.
            for rank in directory.ranks() - store.finals().keys():
                directory.discard(directory.final(rank))
                directory.discard(directory.best(rank))
            store.adopt()
        recorder = Recorder(directory.run, objective, settings.finals, places, heeds)
        failure, logbook = None, Logbook(loggers, directory.logged, say)
        try:
            rows, finals = store.rows(), store.finals() if loggers else {}
            there_are = that_count(finals, rows, settings.max_resource, settings.finals, settings.final)
            logbook.begin(objective, json.loads(json.dumps(identity)), rows, list(there_are.values()))
            watched = watcher or Silent()
            yield Session(objective, settings, store, directory, places, watched, retries, recorder, logbook)
        except BaseException as error:
            failure = words_of(error)
            raise
        finally:
            recorder.end(failure)
            logbook.close()
