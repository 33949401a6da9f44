"""`stantune delete`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage
from stantune.errors import StantuneError, UsageError

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def delete(directory: Directory, yes: Yes = False, storage: Storage = None, debug: o.Debug = False) -> None:
    """Delete a search: its table, checkpoints, weights and notes, and what its functions wrote into `run.directory`.

    Other files in the directory stay.
    """
    from stantune.search.directory.directory import SearchDirectory
    from stantune.search.table.storages.masking import without_password

    there = SearchDirectory.begun(directory, storage)
    if not there.path.is_dir() or not there.may_hold_search():
        raise UsageError(f"there is no search in {directory}; give the directory of one, as --out named it")
    if there.in_use():
        raise UsageError(f"the search in {directory} is running; end it first (stantune stop {directory})")
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(
                f"this would delete the search in {directory}; add --yes to say so where nobody can be asked"
            )
        if not typer.confirm(f"Delete the search in {directory}, with all that it has found?", err=True):
            raise StantuneError(f"the search in {directory} is left as it is")
    with there.locked():
        found = there.delete()
    left = " (other files in it are left)" if there.path.exists() else ""
    without = "" if found else f", but for its trials, which were not in {without_password(there.url)}"
    print(f"the search in {directory} is deleted{left}{without}")
