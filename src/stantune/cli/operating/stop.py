"""`stantune stop`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage, of_one_search
from stantune.cli.operating.status import status
from stantune.cli.output import console_for
from stantune.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

# How often is looked whether it has ended.
LOOK_SECONDS = 0.2


def stop(directory: Directory, storage: Storage = None, json: o.Json = None, debug: o.Debug = False) -> None:
    """End a running search or study in good order, as Ctrl-C does, from wherever its folder can be written to; wait."""
    from stantune.compare.study.folder import holds_study

    if holds_study(directory):
        of_one_search(storage, directory)
        _stop_study(console_for(json), directory)
    else:
        _stop_search(console_for(json), directory, storage)
    status(directory, storage=storage, json=json)


def _stop_study(console: Console, folder: Path) -> None:
    from stantune.compare.study.folder import ask_to_stop, is_running, take_back

    if not is_running(folder):
        console.print(f"no study is running in {folder}", soft_wrap=True)
        return
    ask_to_stop(folder)
    console.print(f"asked the study in {folder} to end; waiting", soft_wrap=True)
    while is_running(folder):
        time.sleep(LOOK_SECONDS)
    # It may have ended by itself without having seen it.
    take_back(folder)


def _stop_search(console: Console, directory: Path, storage: str | None) -> None:
    from stantune.search.directory.directory import SearchDirectory
    from stantune.search.directory.last_run import LastRun

    there = SearchDirectory.begun(directory, storage)
    if not there.in_use():
        if not there.may_hold_search():
            # Its status says so.
            return
        console.print(f"no search is running in {directory}", soft_wrap=True)
        return
    run = LastRun.read(there.run)
    # One that is beginning has not said yet who it is.
    who = "it" if run is None or run.ended is not None else f"process {run.process} on {run.host}"
    if run is not None and run.ended is None and not run.heeds:
        raise UsageError(
            f"the search in {directory} is led by {who}, a program that trains by ask and tell and cannot be asked to "
            "end; end that program"
        )
    there.ask_to_stop()
    console.print(f"asked {who} to end the search in {directory}; waiting", soft_wrap=True)
    while there.in_use():
        time.sleep(LOOK_SECONDS)
    # It may have ended by itself without having seen it.
    there.take_back()
