"""What lies in a directory before a search is begun there: an earlier search, nothing, or others' files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from stantune.errors import UsageError
from stantune.search.directory.names import DATABASE, LOGS, STUDY_RESULT, TRAINED
from stantune.search.table.storages.opening import holds_search, holds_studies


def begun_before_notes(path: Path, study: str, own_database: bool, files: Collection[str]) -> bool:
    """Tell whether a search was begun in a directory without a note, as those of long ago; not where it is free.

    Args:
        path: the directory.
        study: the name of the search's study.
        own_database: whether that is in a database of the directory's own.
        files: names of what a search writes there, but for weights and logs.

    Raises:
        UsageError: it holds what no search wrote and one would overwrite, or is a study's.
    """
    database = path / DATABASE
    if database.exists():
        ours = holds_search(database, study) is not False
        if not holds_studies(database) or (own_database and not ours):
            raise occupied(path, DATABASE)
        if ours:
            return True
    if (path / STUDY_RESULT).is_file():
        raise UsageError(
            f"{path} is the folder of a study, which has a folder for each of its searches; choose another directory "
            "with `out`"
        )
    for there in sorted(path.iterdir()):
        name = there.name
        if name in ("checkpoints", *files) or TRAINED.fullmatch(name) or LOGS.fullmatch(name):
            raise occupied(path, name)
    return False


def occupied(path: Path, name: str) -> UsageError:
    """Say that a directory holds what a search would take for its own."""
    return UsageError(
        f"{path} holds {name}, which no search wrote and a search would overwrite; move it away, or choose another "
        "directory with `out`"
    )
