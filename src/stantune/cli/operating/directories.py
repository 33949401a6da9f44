"""The arguments of the commands that look at a search in its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A search's directory, running or not.")]
Storage = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="The search's storage, where its URL has a password.")
]
