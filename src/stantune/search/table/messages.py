"""What databases and their drivers raise, as one sentence for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from optuna.exceptions import OptunaError

from stantune.errors import StoreError, UsageError
from stantune.search.table.tables import ForeignChangeError


def foreign_sentence(study_name: str, where: str, what: str) -> str:
    """Say that a study was not made, or not left, as a search of ours does it."""
    return (
        f"the study {study_name!r} in {where} cannot go on because {what}: "
        "leave a search's study to the search, and begin it anew with `fresh` or in another place"
    )


@contextmanager
def one_sentence(where: str, study_name: str = "") -> Iterator[None]:
    """Turn what Optuna, SQLAlchemy and the drivers raise into a StoreError of one sentence."""
    try:
        yield
    except (StoreError, UsageError):
        raise
    except ForeignChangeError as error:
        raise StoreError(foreign_sentence(study_name, where, str(error))) from error
    except (sqlalchemy.exc.NoSuchModuleError, ImportError) as error:
        raise StoreError(
            f"the storage {where} needs a database driver that is not installed ({_first_line(error)}): "
            "install it, or leave `storage` away"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, OptunaError, RuntimeError, KeyError, OSError) as error:
        # Optuna wraps what SQLAlchemy raised, and SQLAlchemy what the driver did: the driver knows best.
        cause: BaseException = error
        while not isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.__cause__ is not None:
            cause = cause.__cause__
        reason = _first_line(getattr(cause, "orig", None) or cause)
        raise StoreError(f"the trial table at {where} cannot be used ({reason}): {_remedy(reason)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _remedy(reason: str) -> str:
    for part, remedy in (
        ("locked", "another program is writing to it; end that one and give the same command again"),
        ("not a database", "the file is something else or damaged; move it away or name another"),
        ("No such file", "see that its directory exists and may be written to"),
        ("unable to open", "see that its directory exists and may be written to"),
        ("readonly", "see that the file and its directory may be written to"),
        ("full", "make room and give the same command again"),
        ("already finished", "another program ended a trial of this search; begin anew with `fresh`"),
        ("no longer compatible", "use the version of Optuna that wrote it, or begin in another place"),
    ):
        if part in reason:
            return remedy
    return "see that the address is right and the database answers, then give the same command again"
