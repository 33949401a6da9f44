"""`stantune data fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.cli.output import console_for, write_json

data = typer.Typer(help="The data sets.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", help="mnist, fashion-mnist or cifar10.")]


@data.callback()
def _commands() -> None:
    """The data sets."""


@data.command()
def fetch(name: Name, data: o.Data = None, json: o.Json = None, debug: o.Debug = False) -> None:
    """Fetch a data set, unless it is there and sound; the order of sources is $STANTUNE_DATA_SOURCE."""
    from stantune.images.data import fetch as fetch_data
    from stantune.images.data import load
    from stantune.report.results import DataResult

    console = console_for(json)
    directory = fetch_data(name, data, say=lambda line: console.print(line, soft_wrap=True))
    dataset = load(name, data)
    console.print(
        f"{name}: {len(dataset.train)} training and {len(dataset.test)} test images in {directory}", soft_wrap=True
    )
    result = DataResult(
        name=name,
        directory=str(directory),
        training_images=len(dataset.train),
        test_images=len(dataset.test),
    )
    write_json(result, json)
