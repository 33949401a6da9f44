"""`stantune stop`."""

from __future__ import annotations

import time

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage
from stantune.cli.output import console_for, write_json
from stantune.errors import UsageError

# How often is looked whether it has ended.
LOOK_SECONDS = 0.2


def stop(directory: Directory, storage: Storage = None, json: o.Json = None, debug: o.Debug = False) -> None:
    """End a running search or study in good order, as Ctrl-C does, from wherever its folder can be written to; wait."""
    from stantune.compare.study.folder import holds_study, running_in
    from stantune.report.operating import show_status
    from stantune.search.operating.status import status_of
    from stantune.search.table.directory import SearchDirectory
    from stantune.search.table.last_run import LastRun
    from stantune.search.table.looking.look import look

    if holds_study(directory):
        directory = running_in(directory)
    there, console = SearchDirectory.begun(directory, storage), console_for(json)
    if there.in_use():
        run = LastRun.read(there.run)
        # One that is beginning has not said yet who it is.
        who = "it" if run is None or run.ended is not None else f"process {run.process} on {run.host}"
        if run is not None and run.ended is None and not run.heeds:
            raise UsageError(
                f"the search in {directory} is led by {who}, a program that trains by ask and tell and cannot be asked "
                "to end; end that program"
            )
        there.ask_to_stop()
        console.print(f"asked {who} to end the search in {directory}; waiting", soft_wrap=True)
        while there.in_use():
            time.sleep(LOOK_SECONDS)
        # It may have ended by itself without having seen it.
        there.take_back()
    else:
        console.print(f"no search is running in {directory}", soft_wrap=True)
    result = status_of(look(directory, storage))
    show_status(console, result)
    write_json(result, json)
