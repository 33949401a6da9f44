"""The arguments of the commands that look at a search in its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stantune.errors import UsageError

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A search's directory, running or not.")]
Storage = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="The search's storage, where its URL has a password.")
]


def of_one_search(storage: str | None, folder: Path) -> None:
    """Raise UsageError where a storage is named for a study, which has none of its own."""
    if storage is not None:
        raise UsageError(
            f"--storage is of one search, and {folder} is a study's, whose searches keep their tables in their "
            "directories; leave it out"
        )
