"""Reads SQLite files that may not be written to: of others, in a closed folder, on a read-only medium."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

# In an SQLite file: the byte that says how it is written to, and its value for write-ahead mode.
_MODE_AT, _WRITE_AHEAD = 18, 2
# Of SQLite's error codes the last byte tells the kind.
_KIND_OF_ERROR = 0xFF


def is_closed(file: Path) -> bool:
    """Tell whether a file is there, and SQLite's ordinary way to it is not open: that writes beside it even to read."""
    effective = os.access in os.supports_effective_ids
    return file.is_file() and not all(
        os.access(place, os.W_OK, effective_ids=effective) for place in (file, file.absolute().parent)
    )


def connect_read_only(file: Path, patience: float) -> sqlite3.Connection:
    """Connect to a file that nothing may be written to, nor beside it; see sqlite3.connect.

    A process that writes to it keeps two files beside it, by which others see what is not in it yet. Where they are
    not, nobody does, and SQLite, which cannot make them, has to be told so. So connect anew each time.
    """
    shared, log = (file.with_name(f"{file.name}-{end}") for end in ("shm", "wal"))
    alone = not shared.exists() and not (log.exists() and log.stat().st_size)
    still = "&immutable=1" if alone and _is_write_ahead(file) else ""
    uri = f"{file.absolute().as_uri()}?mode=ro{still}"
    return sqlite3.connect(uri, uri=True, timeout=patience, check_same_thread=False)


def has_studies(file: Path, patience: float) -> bool:
    """Tell whether an SQLite file has Optuna's tables, which Optuna would put into any other; nothing is written.

    Raises sqlite3.Error where it cannot be read.
    """
    return _finds(file, patience, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'studies'")


def has_search(file: Path, study_name: str, attribute: str, patience: float) -> bool:
    """Tell whether an SQLite file has a study of this name with such an attribute of a user's; nothing is written.

    Raises sqlite3.Error where it cannot be read.
    """
    asked = "SELECT 1 FROM studies JOIN study_user_attributes USING (study_id) WHERE study_name = ? AND key = ?"
    return _finds(file, patience, asked, study_name, attribute)


def has_others(file: Path, study_name: str, patience: float) -> bool:
    """Tell whether an SQLite file that is about to be written to has studies of other names.

    Raises sqlite3.Error where it cannot be read.
    """
    asked = "SELECT 1 FROM studies WHERE study_name IS NOT ?"
    try:
        return _finds(file, patience, asked, study_name)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & _KIND_OF_ERROR != sqlite3.SQLITE_READONLY:
            raise
    # A killed process has left half of a write, which has to be taken back before anybody can read.
    with closing(sqlite3.connect(file, timeout=patience)) as connection:
        return connection.execute(asked, (study_name,)).fetchone() is not None


def _finds(file: Path, patience: float, asked: str, *values: str) -> bool:
    with closing(connect_read_only(file, patience)) as connection:
        try:
            return connection.execute(asked, values).fetchone() is not None
        except UnicodeDecodeError as error:
            # SQLite's own sentence on a damaged table quotes the damaged text.
            raise sqlite3.DatabaseError("the database is malformed") from error


def _is_write_ahead(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(_MODE_AT + 1)[_MODE_AT:] == bytes([_WRITE_AHEAD])
