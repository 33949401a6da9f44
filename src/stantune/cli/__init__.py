"""The command line: `stantune search`, `train`, `brackets`, `problems`, `data fetch`."""

from __future__ import annotations

import sys

import typer

from stantune.cli import options
from stantune.cli.data import data
from stantune.cli.search import brackets, search
from stantune.cli.train import problems, train
from stantune.errors import StantuneError

app = typer.Typer(
    name="stantune",
    help="Hyper-parameter search in which every trial trains with fewer computations, and the winner is as good.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(search)
app.command()(train)
app.command()(brackets)
app.command()(problems)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; a failure ends in one sentence on standard error and exit code 1, bad use in 2."""
    try:
        app()
    except StantuneError as error:
        if options.debugging():
            raise
        print(f"stantune: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if options.debugging():
            raise
        print(f"stantune: failed unexpectedly ({type(error).__name__}: {error}); --debug shows where", file=sys.stderr)
        sys.exit(1)
