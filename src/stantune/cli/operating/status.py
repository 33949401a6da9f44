"""`stantune status`."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage, of_one_search
from stantune.cli.output import console_for, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from stantune.compare.study.contract import StudySummary
    from stantune.search.operating.told import StatusResult

# How often is looked again on a terminal, and elsewhere.
WATCH_SECONDS, LINES_SECONDS = 2.0, 60.0
Watch = Annotated[bool, typer.Option("--watch", help="Look again every few seconds, until it does not run or Ctrl-C.")]


def status(
    directory: Directory, watch: Watch = False, storage: Storage = None, json: o.Json = None, debug: o.Debug = False
) -> None:
    """Show where a search or a study stands, while it runs or afterwards; nothing is changed."""
    from stantune.compare.study.folder import holds_study
    from stantune.report.operating import show_status
    from stantune.search.operating.status import status_of
    from stantune.search.table.looking.look import look

    console = console_for(json)
    if holds_study(directory):
        of_one_search(storage, directory)
        write_json(_study(console, directory, watch), json)
        return
    if watch:
        result = _watched(console, directory, storage)
    else:
        result = status_of(look(directory, storage))
        show_status(console, result)
    write_json(result, json)


def _study(console: Console, folder: Path, watch: bool) -> StudySummary:
    """Show where a study stands, with `watch` a line for each search again and again before; return it."""
    from rich.live import Live
    from rich.text import Text

    from stantune.compare.study.folder import is_running, now_in, study_in
    from stantune.report.study import search_lines, show_study
    from stantune.texts import printable

    def lines() -> list[str]:
        summary = study_in(folder, watching=True)
        return search_lines(summary, now_in(folder, summary))

    with suppress(KeyboardInterrupt):  # Of the watching; the study knows nothing of it.
        if watch and console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="visible") as live:
                while is_running(folder):
                    live.update(Text("\n".join(map(printable, lines()))), refresh=True)
                    time.sleep(WATCH_SECONDS)
        told = set[str]()
        while watch and not console.is_terminal and is_running(folder):
            for line in lines():
                if line not in told:
                    told.add(line)
                    console.print(line, soft_wrap=True)
            time.sleep(LINES_SECONDS)
    summary = study_in(folder)
    show_study(console, summary, now_in(folder, summary))
    return summary


def _watched(console: Console, directory: Path, storage: str | None) -> StatusResult:
    """Show it again and again; return what was seen last."""
    import io

    from rich.live import Live
    from rich.text import Text

    from stantune.cli.console import PrintingConsole
    from stantune.report.operating import show_status
    from stantune.search.operating.status import status_of
    from stantune.search.table.looking.look import look

    def drawn(result: StatusResult) -> Text:
        # On another console: what is printed on one that is live has the whole view with it, and so has the next view.
        file = io.TextIOWrapper(io.BytesIO(), console.encoding, errors="backslashreplace")
        apart = PrintingConsole(
            file=file, width=console.width, force_terminal=False, highlight=False, markup=False, emoji=False
        )
        show_status(apart, result)
        file.seek(0)
        return Text(file.read().removesuffix("\n"))

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
