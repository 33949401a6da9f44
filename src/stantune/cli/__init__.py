"""The command line: one function for each command of `stantune`."""

from __future__ import annotations

import errno
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stantune.cli import options
from stantune.cli.configuration import ConfiguredCommand
from stantune.cli.data import data
from stantune.cli.doctor import doctor
from stantune.cli.import_ import import_caffe
from stantune.cli.operating.dashboard import dashboard
from stantune.cli.operating.delete import delete
from stantune.cli.operating.export import export
from stantune.cli.operating.list import list_searches
from stantune.cli.operating.report import report
from stantune.cli.operating.show import show
from stantune.cli.operating.status import status
from stantune.cli.operating.stop import stop
from stantune.cli.panels import PanelledCommand
from stantune.cli.problems import problems
from stantune.cli.stan.entries import entries
from stantune.cli.stan.profile import profile
from stantune.cli.streams import lasting_streams
from stantune.cli.training.brackets import brackets
from stantune.cli.training.compare import compare
from stantune.cli.training.search import search
from stantune.cli.training.study import study
from stantune.cli.training.train import train
from stantune.cli.wording import worded
from stantune.errors import StantuneError, UsageError, words_of
from stantune.process.start_method import copy_processes
from stantune.texts import one_line


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Here, because Typer itself would end without a word. A search and a training have a better ending.
            raise StantuneError("interrupted before it was done; give the same command again to go on") from None
        except SystemExit as error:
            # Of the user's code: ours and Typer's end otherwise. Success was not what it meant.
            raise StantuneError(
                "the code that was given has ended the program, by sys.exit or the like, before the command was done; "
                "have it raise an error that says what is wrong"
            ) from error


app = typer.Typer(
    name="stantune",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"stantune {version('stantune')}")
        raise typer.Exit


@app.callback()
def common(
    shown: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Hyper-parameter search in which every trial trains with fewer computations, and the winner is as good.

    Begin with: stantune search lenet --quick, which takes a few minutes; stantune doctor says what runs here.
    """


app.command(cls=ConfiguredCommand)(search)
app.command()(train)
app.command(cls=PanelledCommand)(brackets)
app.command()(problems)
app.command("import")(import_caffe)
app.command()(compare)
app.command()(study)
app.command()(profile)
app.command()(entries)
app.command()(doctor)
app.command()(dashboard)
app.command()(status)
app.command("list")(list_searches)
app.command()(show)
app.command()(export)
app.command()(stop)
app.command()(delete)
app.command()(report)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; a failure ends in one sentence on standard error and exit code 1, bad use in 2."""
    if hasattr(signal, "SIGCHLD"):
        # Where a supervisor has it ignored, nobody would learn how workers and commands end.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    copy_processes()
    try:
        with lasting_streams():
            app(prog_name="stantune")
    except StantuneError as error:
        if options.debugging():
            raise
        print(f"stantune: {one_line(worded(str(error)))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if options.debugging():
            raise
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(f"stantune: {one_line(str(error.filename))} is too long a name; give a shorter one", file=sys.stderr)
            sys.exit(UsageError.exit_code)
        print(f"stantune: failed unexpectedly ({one_line(words_of(error))}); --debug shows where", file=sys.stderr)
        sys.exit(1)
