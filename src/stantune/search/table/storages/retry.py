"""Waits for a database that is locked or gone for a while: a search of days does not end because of ten seconds."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from stantune.search.propose.sampling import optuna_quiet
from stantune.search.table.tables import EndedTrial, Tables

# A server that is started anew needs some, a backup that locks the file likewise.
SECONDS = 60.0
PAUSE_SECONDS = 0.5
# SQLite's errors that another program's lock has, and those that may pass: damage and what was asked are neither.
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_PASSING = _HELD | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL}
# What servers say as they begin or end, or have too much to do (PostgreSQL, MySQL).
_BUSY = (
    "starting up",
    "shutting down",
    "in recovery mode",
    "not yet accepting connections",
    "terminating connection",
    "closed the connection",
    "Lost connection",
    "gone away",
    "shutdown in progress",
    "too many clients",
    "Too many connections",
    "remaining connection slots",
)
# What databases say of tables, and of the row with their version, that another program makes at the same moment.
_MADE_MEANWHILE = ("already exists", "alembic_version", "version_info", "pg_type_typname_nsp_index")

T = TypeVar("T")


class RetryingTables:
    """Does what other tables do, again and again while the database cannot be reached; see Tables.

    A write whose answer was lost may have been done: before it is done again, the study is looked at.
    """

    def __init__(self, tables: Tables, storage: BaseStorage, study_id: int) -> None:
        """Write to this study by these tables."""
        self._tables = tables
        self._storage = storage
        self._study_id = study_id
        # Writes that raised and may have been done: of the trial that is created next, and of which trials' ends.
        self._create_unsure = False
        self._close_unsure: set[int] = set()

    def create(
        self,
        number: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
    ) -> int:
        """See Tables."""
        unsure, self._create_unsure = self._create_unsure, True

        def write(again: bool) -> int:
            if (again or unsure) and self._storage.get_n_trials(self._study_id) > number:
                trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
                if self._holds(trial_id, attributes, params):
                    return trial_id
            return self._tables.create(number, params, distributions, attributes)

        trial_id = insist(self._storage, write)
        self._create_unsure = False
        return trial_id

    def record(self, trial_id: int, attributes: Mapping[str, Any], step: int | None, value: float) -> None:
        """See Tables; doing it twice makes no difference."""
        insist(self._storage, lambda again: self._tables.record(trial_id, attributes, step, value))

    def close(self, ended: Sequence[EndedTrial]) -> None:
        """See Tables."""
        closing = {trial.trial_id for trial in ended}
        unsure = self._close_unsure & closing
        self._close_unsure |= closing

        def write(again: bool) -> None:
            left = [each for each in ended if not ((again or each.trial_id in unsure) and self._is_closed(each))]
            if left:
                self._tables.close(left)

        insist(self._storage, write)
        self._close_unsure -= closing

    def delete(self) -> None:
        """See Tables."""
        self._tables.delete()

    def _is_closed(self, ended: EndedTrial) -> bool:
        # By this search: what another program ended has not the cause that is written with it.
        state = self._storage.get_trial(ended.trial_id).state
        return state == ended.state and self._holds(ended.trial_id, ended.attributes)

    def _holds(self, trial_id: int, attributes: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> bool:
        """Tell whether a trial is as it would be had it been written: another program may have written another one."""
        trial = self._storage.get_trial(trial_id)
        noted = trial.user_attrs
        same = all(name in noted and noted[name] == value for name, value in attributes.items())
        return same and (params is None or trial.params == dict(params))


def insist(storage: BaseStorage | None, ask: Callable[[bool], T], *, begun: bool = True) -> T:
    """Ask a database until it answers, for so long as it may be away; raises what it raises in the end.

    Args:
        storage: where it is asked; None where it is only just opened.
        ask: asks it; is told whether it was asked before.
        begun: it was in use before. Where it was not, its address may be wrong, or it may not be written to: what could
            be due to that is not waited for unless something else has shown that the database is there.
    """
    end = None
    while True:
        try:
            # What it meets is for us to say, in one sentence.
            with optuna_quiet(optuna.logging.ERROR):
                return ask(end is not None)
        except (sqlalchemy.exc.DBAPIError, StorageInternalError, OSError) as error:
            passing = _may_pass(error) if begun or end is not None else _is_there(error)
            # From the first error on: what was asked on a connection that is gone may have hung for longer.
            end = time.monotonic() + SECONDS if end is None else end
            if not passing or time.monotonic() + PAUSE_SECONDS >= end:
                raise
        time.sleep(PAUSE_SECONDS)
        if isinstance(storage, RDBStorage):
            # Whatever a connection was in the middle of, it is not to be used again.
            storage.remove_session()
            storage.engine.dispose()


def ask(storage: BaseStorage, ask: Callable[[], T]) -> T:
    """Ask a database as a search begins, and wait while it has no time; to ask twice makes no difference."""
    return insist(storage, lambda again: ask(), begun=False)


def is_damage(error: BaseException) -> bool:
    """Tell whether something was read that cannot be what was written."""
    cause = _cause(error)
    if cause is None:
        return isinstance(error, ValueError | TypeError | RecursionError)
    # Python could not make text of it.
    return "Could not decode" in str(cause.orig)


def _may_pass(error: BaseException) -> bool:
    """Tell whether it is the way to the database that failed, or a lock; not what was asked."""
    if isinstance(error, OSError):
        # A journal, on a share that went away.
        return error.errno in (errno.ENOENT, errno.ESTALE)
    cause = _cause(error)
    if cause is None:
        return False
    code = _sqlite_code(cause)
    if code is not None:
        return code in _PASSING
    if is_damage(error):
        return False
    return cause.connection_invalidated or isinstance(
        cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError
    )


def _is_there(error: BaseException) -> bool:
    """Tell whether an error shows that there is a database, which has only no time now, or is being made."""
    if isinstance(error, OSError):
        return error.errno == errno.ESTALE
    cause = _cause(error)
    if cause is None:
        return False
    if any(words in str(cause.orig) for words in _MADE_MEANWHILE):
        return True
    code = _sqlite_code(cause)
    if code is not None:
        return code in _HELD
    return cause.connection_invalidated or any(words in str(cause.orig) for words in _BUSY)


def _cause(error: BaseException) -> sqlalchemy.exc.DBAPIError | None:
    """What SQLAlchemy raised, which Optuna wraps; None where it is nothing of a driver's."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return cause if isinstance(cause, sqlalchemy.exc.DBAPIError) else None


def _sqlite_code(error: sqlalchemy.exc.DBAPIError) -> int | None:
    """SQLite's own code of an error, without its details; None where the error is not SQLite's."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
