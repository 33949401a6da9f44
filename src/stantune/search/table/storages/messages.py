"""What databases and their drivers raise, as one sentence for the user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from optuna.exceptions import OptunaError

from stantune.errors import StantuneError, StoreError
from stantune.search.table.rows import ImpossibleError
from stantune.search.table.tables import ForeignChangeError

# What Optuna says of a study or a trial that is not there.
_NOT_FOUND = "Record does not exist."
_ANOTHER = "put a copy of it in its place, or begin anew with `fresh` or in another place"
# A reason may repeat whatever is in the table.
_LONGEST = 160


def foreign_sentence(study_name: str, where: str, what: str) -> str:
    """Say that a study was not made, or not left, as a search of ours does it."""
    return (
        f"the study {study_name!r} in {where} cannot go on because {what}: "
        "leave a search's study to the search, and begin it anew with `fresh` or in another place"
    )


@contextmanager
def one_sentence(where: str, study_name: str = "", *, reads: bool = False) -> Iterator[None]:
    """Turn what Optuna, SQLAlchemy and the drivers raise into a StoreError of one sentence.

    With `reads`, all else that is raised is so, too: who takes values out of a table in which a byte is wrong fails in
    any way.
    """
    try:
        yield
    except StantuneError:
        raise
    except ImpossibleError as error:
        raise StoreError(
            f"the study {study_name!r} in {where} holds what no search writes there ({error}): {_ANOTHER}"
        ) from error
    except ForeignChangeError as error:
        raise StoreError(foreign_sentence(study_name, where, str(error))) from error
    except (sqlalchemy.exc.NoSuchModuleError, ImportError) as error:
        raise StoreError(
            f"the storage {where} needs a database driver that is not installed ({_first_line(error)}): "
            "install it, or leave `storage` away"
        ) from error
    except RecursionError as error:
        raise StoreError(damaged_sentence(where, error)) from error
    except (sqlalchemy.exc.SQLAlchemyError, OptunaError, RuntimeError, OSError) as error:
        # Optuna wraps what SQLAlchemy raised, and SQLAlchemy what the driver did: the driver knows best.
        cause: BaseException = error
        while not isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.__cause__ is not None:
            cause = cause.__cause__
        reason = _first_line(getattr(cause, "orig", None) or cause)
        raise StoreError(f"the trial table at {where} cannot be used ({reason}): {_remedy(reason)}") from error
    except (LookupError, AssertionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        if study_name and isinstance(error, KeyError) and _NOT_FOUND in error.args:
            raise StoreError(foreign_sentence(study_name, where, "it, or a trial of it, is gone")) from error
        raise StoreError(damaged_sentence(where, error)) from error
    except Exception as error:
        if not reads:
            raise
        raise StoreError(damaged_sentence(where, error)) from error


def gone_sentence(study_name: str, where: str) -> str:
    """Say that a search that was begun has no table any more."""
    return (
        f"the trial table of this search is gone: there is no study {study_name!r} in {where} any more, because "
        "another program deleted or renamed it, or the directory was moved; put it back, or begin anew with `fresh` or "
        "in another place"
    )


def damaged_sentence(where: str, error: Exception) -> str:
    """Say that there is something in a table that nobody wrote."""
    return f"the trial table at {where} is damaged ({type(error).__name__}: {_first_line(error)}): {_ANOTHER}"


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    shown = "".join(character if character.isprintable() else "?" for character in line)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _remedy(reason: str) -> str:
    for part, remedy in (
        ("locked", "another program is writing to it; end that one and give the same command again"),
        ("not a database", "the file is something else or damaged; move it away or name another"),
        ("No such file", "see that its directory exists and may be written to"),
        ("unable to open", "see that its directory exists and may be written to"),
        ("Permission denied", "see that you may read the directory and what is in it"),
        ("readonly", "see that the file and its directory may be written to"),
        ("full", "make room and give the same command again"),
        ("No space left", "make room and give the same command again"),
        ("already finished", "another program ended a trial of this search; begin anew with `fresh`"),
        ("malformed", _ANOTHER),
        ("UNIQUE constraint", _ANOTHER),
        ("Could not decode", _ANOTHER),
        ("no such table", _ANOTHER),
        ("no such column", _ANOTHER),
        ("has no column", _ANOTHER),
        ("syntax error", _ANOTHER),
        ("no longer compatible", "use the version of Optuna that wrote it, or begin in another place"),
    ):
        if part in reason:
            return remedy
    return "see that the address is right and the database answers, then give the same command again"
