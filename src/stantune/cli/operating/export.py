"""`stantune export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage
from stantune.cli.output import check_file, console_for, write_json
from stantune.cli.streams import print_result, reserve_stdout
from stantune.errors import StantuneError, UsageError
from stantune.files import write_whole

Csv = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="A row for each trial and rung, as CSV; - for here.")
]
Parquet = Annotated[
    Path | None, typer.Option("--parquet", metavar="FILE", help="The same as Parquet; needs pandas and pyarrow.")
]
Study = Annotated[str | None, typer.Option("--optuna", metavar="URL", help="Copy the study into this Optuna storage.")]


def export(
    directory: Directory,
    csv: Csv = None,
    parquet: Parquet = None,
    json: o.Json = None,
    optuna: Study = None,
    storage: Storage = None,
    debug: o.Debug = False,
) -> None:
    """Write a search's trials to files that other programs read, running or not; the search is not changed."""
    from stantune.search.operating.exporting import copy_study, csv_of, parquet_of, rows_of
    from stantune.search.operating.status import metric_result
    from stantune.search.operating.told import ExportResult, LossesOf, loss_points
    from stantune.search.table.looking.look import look

    if csv is None and parquet is None and json is None and optuna is None:
        raise UsageError("nothing says what to write; give --csv FILE, --parquet FILE, --json FILE or --optuna URL")
    printed = csv == Path("-")
    if printed and json == "-":
        raise UsageError("--csv - and --json - would be printed into one another; give one of them a file")
    if parquet == Path("-"):
        raise UsageError("--parquet - cannot be printed, since it is no text; give it a file")
    if printed:
        reserve_stdout()
    for option, file in (("--csv", None if printed else csv), ("--parquet", parquet)):
        if file is not None:
            check_file(option, file)
    seen, console = look(directory, storage), console_for("-" if printed else json)
    rows = rows_of(seen)
    if printed:
        try:
            # Its last line's end is print's.
            print_result(csv_of(rows).decode().replace("\r\n", "\n").rstrip("\n"))
        except OSError as error:
            raise StantuneError(f"--csv - cannot be written ({error.strerror}); name a file") from error
        csv = None
    for option, file, write in (("--csv", csv, csv_of), ("--parquet", parquet, parquet_of)):
        if file is None:
            continue
        content = write(rows)
        try:
            write_whole(file, content)
        except OSError as error:
            raise StantuneError(f"{option} {file} cannot be written ({error.strerror}); name another file") from error
        console.print(f"{len(rows)} rows of {len(seen.rows)} trials in {file}", soft_wrap=True)
    if optuna is not None:
        console.print(f"the study is there as {copy_study(seen.directory, optuna)!r}", soft_wrap=True)
    losses = [LossesOf(trial=row.number, losses=loss_points(row.loss_curve)) for row in seen.rows if row.losses]
    result = ExportResult(
        problem=seen.problem, metric=metric_result(seen.metric), unit=seen.unit, rows=rows, losses=losses
    )
    write_json(result, json)
