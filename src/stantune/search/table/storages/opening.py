"""Opens Optuna's storages by their URLs: relational databases, and journal files."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from stantune.errors import StoreError, UsageError
from stantune.search.table.attributes import IDENTITY
from stantune.search.table.storages.masking import discreet
from stantune.search.table.storages.masking import without_password as without_password
from stantune.search.table.storages.messages import one_sentence
from stantune.search.table.storages.read_only import connect_read_only, has_others, has_search, has_studies, is_closed
from stantune.search.table.storages.retry import insist
from stantune.search.table.tables import sqlite_factory
from stantune.texts import encodable

# How long to wait for a database that another program holds, or for a server that does not answer.
PATIENCE_SECONDS = 15
# A program holds a journal's lock for one write; after so long it was killed in it, and its lock is broken.
JOURNAL_LOCK_SECONDS = 5

# Drivers whose connect() takes `connect_timeout` in seconds; the others keep their own default.
_TIMED_DRIVERS = {"psycopg", "psycopg2", "mysqldb", "pymysql"}
# Of PostgreSQL's: a firewall drops a connection that is idle while a training takes hours, and writing to one that is
# gone would take what TCP does to give up, a quarter of an hour.
_KEPT_ALIVE = {"psycopg", "psycopg2"}
_ALIVE = {"keepalives_idle": 60, "tcp_user_timeout": 60_000}
_JOURNAL = "journal"
# How Optuna writes each operation's line.
_OPERATION = b'{"op_code":'
_FILES = ("sqlite", "sqlite+pysqlite")


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file, whatever characters its path has."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def located(url: str, complete: Callable[[str], object] = lambda path: Path(path).absolute()) -> str:
    """Return a URL that names the same file in any working folder; one of a server, or no URL, is returned as it is.

    Args:
        url: of a storage; the path of an SQLite or a journal file may be relative.
        complete: makes a path absolute.
    """
    with suppress(sqlalchemy.exc.ArgumentError, ValueError):
        parsed = sqlalchemy.make_url(url)
        if parsed.database and _is_file(parsed) and (path := str(complete(parsed.database))) != parsed.database:
            there = parsed.set(database=path).render_as_string(hide_password=False)
            # Not every SQLAlchemy can say a question mark in a path.
            return there if sqlalchemy.make_url(there).database == path else url
    return url


def same_place(url: str, other: str) -> bool:
    """Tell whether two URLs name one storage, by whichever path of it; passwords make no difference."""
    one, another = (located(without_password(each), os.path.realpath) for each in (url, other))
    return one == another


def connect(url: str, *, to_read: bool = False) -> tuple[BaseStorage, str]:
    """Open Optuna's storage at a URL; return it with the URL as messages may show it, without password.

    Args:
        url: where it is; an SQLite file is made where there is none.
        to_read: nothing will be written, so that it need not be allowed.

    Raises:
        UsageError: there can be no storage at such a URL.
        StoreError: it cannot be reached, or is damaged.
    """
    parsed, where = _parsed(url), without_password(url)
    if parsed.drivername == _JOURNAL:
        return _journal(_journal_file(parsed), where), where
    if parsed.drivername == "postgresql" and find_spec("psycopg") is None and find_spec("psycopg2") is not None:
        # The driver that SQLAlchemy takes by itself depends on its version; one that is there is as good.
        parsed = parsed.set(drivername="postgresql+psycopg2")
        url = parsed.render_as_string(hide_password=False)
    options: dict[str, Any] = {}
    with _discreet(url), one_sentence(where):
        driver = parsed.get_dialect().driver
        file = Path(parsed.database or "")
        if driver == "pysqlite" and to_read and is_closed(file):
            # A pool would keep a connection while what is beside the file changes.
            options["creator"] = partial(connect_read_only, file, PATIENCE_SECONDS)
            options["poolclass"] = sqlalchemy.NullPool
        elif driver == "pysqlite":
            options["connect_args"] = {"factory": sqlite_factory(), "timeout": PATIENCE_SECONDS}
        elif driver in _TIMED_DRIVERS:
            timed = {"connect_timeout": PATIENCE_SECONDS, **(_ALIVE if driver in _KEPT_ALIVE else {})}
            # What the URL says itself would be overruled.
            options["connect_args"] = {name: value for name, value in timed.items() if name not in parsed.query}
        # Optuna puts its schema version in place of {SCHEMA_VERSION}; braces are just braces here.
        there = url.replace("{", "{{").replace("}", "}}")
        storage = insist(None, lambda again: _database(there, options), begun=False)
    return storage, where


def release(storage: BaseStorage) -> None:
    """Give up the connections of a storage; nothing may be asked of it after this."""
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


@contextmanager
def reading(url: str, study_name: str) -> Iterator[tuple[BaseStorage, int] | None]:
    """Open a storage to look at a study, also one that may not be written to; None where there is no such study.

    Raises as `connect` does.
    """
    if not _may_hold_studies(_parsed(url)):
        # To look at it would make it.
        yield None
        return
    storage, where = connect(url, to_read=True)
    try:
        with one_sentence(where, study_name, reads=True):
            try:
                study_id = insist(storage, lambda again: study_named(storage, study_name), begun=False)
                found = storage, study_id
            except KeyError:
                found = None
            yield found
    finally:
        release(storage)


def study_named(storage: BaseStorage, name: str) -> int:
    """Return the id of the study of exactly this name; raises KeyError where there is none.

    MySQL and MariaDB look for it without telling upper from lower case, if not told otherwise: what they find may be
    another search's.
    """
    study_id = storage.get_study_id_from_name(name)
    if storage.get_study_name_from_id(study_id) != name:
        raise KeyError(name)
    return study_id


def mend(url: str) -> None:
    """Cut off what a process was writing to a journal when it was killed; call it before writing to the storage.

    The next line would be written behind it otherwise, and both could not be read any more.

    Raises:
        UsageError: there can be no storage at such a URL.
        StoreError: the file is no journal, and stays as it is; or the journal cannot be written to.
    """
    parsed, where = _parsed(url), without_password(url)
    if parsed.drivername != _JOURNAL:
        return
    file = _journal_file(parsed)
    with one_sentence(where):
        if file.exists():
            with _held(file):
                _cut_off(file, where)


def holds_studies(file: Path) -> bool:
    """Tell whether an SQLite file has Optuna's tables, or is in use, which leaves it open; nothing is written."""
    try:
        return has_studies(file, PATIENCE_SECONDS)
    except (sqlite3.OperationalError, OSError):
        return True
    except sqlite3.DatabaseError:
        # No database at all.
        return False


def holds_search(file: Path, study_name: str) -> bool | None:
    """Tell whether an SQLite file has a search's study of this name; None where it is damaged or may not be read now.

    Nothing is written.
    """
    try:
        return has_search(file, study_name, IDENTITY, PATIENCE_SECONDS)
    except (sqlite3.DatabaseError, OSError) as error:
        # Without such tables it can be read, and has none.
        return False if _is_without_tables(error) else None


def holds_others(file: Path, study_name: str) -> bool:
    """Tell whether an SQLite file has studies of other names, as far as it is not damaged.

    Nothing is written, but that what a killed process has left half written is taken back.

    Raises StoreError where it cannot be read now.
    """
    try:
        return has_others(file, study_name, PATIENCE_SECONDS)
    except (sqlite3.OperationalError, OSError) as error:
        if _is_without_tables(error):
            return False
        raise StoreError(
            f"{file} may hold other studies, and cannot be read ({error}): end the program that has it, see that it "
            "may be read, and give the same command again"
        ) from error
    except sqlite3.DatabaseError:
        return False


def _is_without_tables(error: Exception) -> bool:
    """Tell whether SQLite says that a table or a column is not there."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


def _may_hold_studies(url: sqlalchemy.URL) -> bool:
    """Tell whether a study may be at a URL; not where a file is not there, or is a database of another program."""
    if url.drivername == _JOURNAL:
        return _journal_file(url).exists()
    if not _is_file(url):
        return True
    file = Path(str(url.database))
    # What else may be wrong with it, Optuna finds out.
    with suppress(sqlite3.Error, OSError):
        return file.exists() and has_studies(file, PATIENCE_SECONDS)
    return True


def _is_file(url: sqlalchemy.URL) -> bool:
    """Tell whether a URL's database is a file by its path; in a URI of SQLite's own the name is none."""
    named = url.database not in (None, "", ":memory:") and "uri" not in url.query and not url.host
    return url.drivername in (*_FILES, _JOURNAL) and named


class _JournalFile(JournalFileBackend):
    """A journal's file. It is made once: where it is gone later, it may be on a share that is so for a while."""

    def __init__(self, path: Path, where: str) -> None:
        super().__init__(str(path), _lock(path))
        self._path = path
        self._where = where

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See JournalFileBackend; raises FileNotFoundError where the file is gone."""
        if not self._path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with _held(self._path):
            # What a program that was killed meanwhile has left, or a write of before that could not be taken back.
            _cut_off(self._path, self._where)
            try:
                with self._path.open("ab") as journal:
                    journal.write(lines)
                    journal.flush()
                    os.fsync(journal.fileno())
            except BaseException:
                # A full disk takes a part of a line. It goes under the same hold of the lock: another search would
                # write behind it. A whole line stays, since others may have read it by now.
                with suppress(OSError, StoreError):
                    _cut_off(self._path, self._where)
                raise


def _parsed(url: str) -> sqlalchemy.URL:
    try:
        if encodable(url) != url:
            raise ValueError("no driver takes it")
        return sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the port is no number
        raise UsageError(
            f"{without_password(url)!r} is no storage URL: give one like sqlite:///runs/search.db, "
            "postgresql://user@host/name or journal:///runs/search.log"
        ) from None


def _database(url: str, options: dict[str, Any]) -> RDBStorage:
    try:
        return RDBStorage(url, engine_kwargs=options)
    except UnicodeDecodeError:
        raise  # from the file
    except (TypeError, ValueError) as error:
        # Parameters of the URL that the driver does not know, or not with such values.
        raise RuntimeError(str(error)) from error


@contextmanager
def _discreet(url: str) -> Iterator[None]:
    """Leave away what drivers say of a password as they fail to connect; where it is not one, they take it for more."""
    try:
        yield
    except (StoreError, UsageError) as error:
        raise type(error)(discreet(str(error), url)) from error


def _journal(path: Path, where: str) -> JournalStorage:
    with one_sentence(where):
        file = _JournalFile(path, where)
        if _is_journal(path):
            # Optuna asserts that it knows an operation, and takes what it finds in one for what it should be.
            with suppress(LookupError, AssertionError, ValueError, TypeError, AttributeError):
                return insist(None, lambda again: JournalStorage(file), begun=False)
    raise _no_journal(where)


def _cut_off(file: Path, where: str) -> None:
    """Cut off what stands behind a journal's last whole line, under its lock; raises StoreError where it is none."""
    with file.open("r+b") as journal:
        if not journal.seek(0, os.SEEK_END):
            return
        journal.seek(-1, os.SEEK_END)
        if journal.read() == b"\n":
            return
        if not _is_journal(file):
            raise _no_journal(where)
        journal.seek(0)
        journal.truncate(sum(len(line) for line in journal if line.endswith(b"\n")))


def _no_journal(where: str) -> StoreError:
    return StoreError(
        f"the trial table at {where} cannot be used (it is no journal of Optuna's, or a damaged one): move it away or "
        "name another"
    )


def _is_journal(path: Path) -> bool:
    """Tell whether each whole line is an operation, and a last one that was cut begins as one."""
    whole = False
    try:
        with path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    # A power cut may have left zeros where the rest should be.
                    begun = line.rstrip(b"\0")[: len(_OPERATION)]
                    return _OPERATION.startswith(begun) and (whole or begun == _OPERATION)
                whole = isinstance(json.loads(line)["op_code"], int)
                if not whole:
                    return False
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _journal_file(url: sqlalchemy.URL) -> Path:
    """Return a journal's file; like SQLite's, a relative path has three slashes before it, and an absolute one four."""
    if url.host or not url.database:
        raise UsageError(
            f"{without_password(str(url))!r} names no journal file: give journal:///runs/search.log, or with four "
            "slashes an absolute path"
        )
    return Path(url.database)


def _lock(path: Path) -> JournalFileOpenLock:
    return JournalFileOpenLock(str(path), JOURNAL_LOCK_SECONDS)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep all others from writing to a journal."""
    lock = _lock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
