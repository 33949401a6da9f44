"""`stantune status`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage
from stantune.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from stantune.search.operating.told import StatusResult

# How often is looked again on a terminal, and elsewhere.
WATCH_SECONDS, LINES_SECONDS = 2.0, 60.0
Watch = Annotated[bool, typer.Option("--watch", help="Look again every few seconds, until it does not run or Ctrl-C.")]


def status(
    directory: Directory, watch: Watch = False, storage: Storage = None, json: o.Json = None, debug: o.Debug = False
) -> None:
    """Show where a search or a study stands, while it runs or afterwards; nothing is changed."""
    from stantune.compare.study.folder import holds_study, running_in, study_in
    from stantune.report.operating import show_status
    from stantune.report.study import show_study
    from stantune.search.operating.status import status_of
    from stantune.search.table.looking.look import look

    console = o.console_for(json)
    if holds_study(directory):
        study = study_in(directory)
        if watch:
            raise UsageError(f"--watch looks at one search, and {directory} is a study's; give {running_in(directory)}")
        show_study(console, study)
        o.write_json(study, json)
        return
    if watch:
        result = _watched(console, directory, storage)
    else:
        result = status_of(look(directory, storage))
        show_status(console, result)
    o.write_json(result, json)


def _watched(console: Console, directory: Path, storage: str | None) -> StatusResult:
    """Show it again and again; return what was seen last."""
    from rich.live import Live
    from rich.text import Text

    from stantune.report.operating import show_status
    from stantune.search.operating.status import status_of
    from stantune.search.table.looking.look import look

    def drawn(result: StatusResult) -> Text:
        with console.capture() as text:
            show_status(console, result)
        return Text.from_ansi(text.get())

    result = status_of(look(directory, storage))
    try:
        if not console.is_terminal:
            show_status(console, result)
            while result.state == "running":
                time.sleep(LINES_SECONDS)
                result = status_of(look(directory, storage))
                show_status(console, result)
            return result
        with Live(drawn(result), console=console, auto_refresh=False, vertical_overflow="visible") as live:
            while result.state == "running":
                time.sleep(WATCH_SECONDS)
                result = status_of(look(directory, storage))
                live.update(drawn(result), refresh=True)
    except KeyboardInterrupt:
        # Of the watching; the search knows nothing of it.
        pass
    return result
