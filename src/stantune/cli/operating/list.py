"""`stantune list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.cli.output import console_for, write_json
from stantune.cli.wording import worded

Folder = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where to look, with all that is below it.")]


def list_searches(folder: Folder = Path("runs"), json: o.Json = None, debug: o.Debug = False) -> None:
    """Show all searches below a folder: what each searches, where it stands, its best."""
    from stantune.report.operating import show_found
    from stantune.search.operating.status import searches_below

    result = searches_below(folder)
    for found in result.searches:
        found.error = found.error and worded(found.error)
    show_found(console_for(json), result)
    write_json(result, json)
