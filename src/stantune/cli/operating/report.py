"""`stantune report`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from stantune.cli import options as o

Directories = Annotated[list[Path], typer.Argument(metavar="DIR…", help="Directories of searches, running or not.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="The page (default: report.html in the first DIR).")
]
Open = Annotated[bool, typer.Option("--open", help="Show it in a browser.")]
Storage = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="The searches' storage, where its URL has a password.")
]

Profile = Annotated[
    list[Path] | None,
    typer.Option("--profile", metavar="FILE", help="What `stantune profile --json` wrote, to set beside; repeatable."),
]


def report(
    directories: Directories,
    out: Out = None,
    open: Open = False,
    storage: Storage = None,
    profile: Profile = None,
    debug: o.Debug = False,
) -> None:
    """Write a page about searches, to look at in a browser and to send: pictures, tables, how to repeat them."""
    from stantune.report.page.writing import write_report

    file = write_report(directories, out, storage, profile or ()).absolute()
    print(f"the report is in {file}", flush=True)
    if open and not webbrowser.open(file.as_uri()):
        print("no browser could be started; open the file in one")
