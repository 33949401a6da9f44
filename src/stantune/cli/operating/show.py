"""`stantune show`."""

from __future__ import annotations

from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage
from stantune.cli.output import console_for, write_json

Trial = Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.")]


def show(
    directory: Directory, trial: Trial, storage: Storage = None, json: o.Json = None, debug: o.Debug = False
) -> None:
    """Show one trial of a search: setting, rungs, times, failures, checkpoint."""
    from stantune.report.operating import show_trial
    from stantune.search.operating.trial_report import trial_report
    from stantune.search.table.looking.look import look

    result = trial_report(look(directory, storage), trial)
    show_trial(console_for(json), result)
    write_json(result, json)
