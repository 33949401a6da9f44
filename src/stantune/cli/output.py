"""Where a command's words and its result go: a console, standard output, files that can be written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stantune.cli.streams import print_result
from stantune.errors import StantuneError, UsageError
from stantune.files import check_writable, write_whole

if TYPE_CHECKING:
    # Imported for real where they are used: PyTorch and Optuna take seconds, and `--help` needs none of them.
    from pydantic import BaseModel
    from rich.console import Console

# What a search or a study is known by.
_TELLING = ("search.json", "search.db", "study.json")


def console_for(json: str | None) -> Console:
    """Return where people read: standard output, or standard error where that is taken by JSON."""
    from stantune.cli.console import PrintingConsole

    # Paths and values are printed as they are: no [markup] and no :emoji: in them.
    return PrintingConsole(stderr=json == "-", highlight=False, markup=False, emoji=False)


def say_loading(what: str, json: str | None) -> None:
    """Say on a terminal what takes the next seconds; nothing that takes them may be imported before."""
    console = console_for(json)
    if console.is_terminal:
        console.print(f"loading {what} …")


def write_json(result: BaseModel, target: str | None) -> None:
    """Write a result where --json says.

    Raises:
        StantuneError: the file cannot be written.
    """
    if target is not None:
        write_text(result.model_dump_json(indent=2), target)


def write_text(text: str, target: str) -> None:
    """Write a text where --json says; raises StantuneError where it cannot be written."""
    try:
        if target == "-":
            print_result(text)
        else:
            write_whole(Path(target), f"{text}\n".encode())
    except OSError as error:
        raise StantuneError(f"--json {target} cannot be written ({error.strerror}); name another file") from error


def check_file(option: str, path: Path) -> None:
    """Raise UsageError now, and not after hours of training, where an option names no file that may be written.

    Such are a folder, what the system refuses, and what a search or a study needs for itself.
    """
    try:
        check_writable(path)
        folder = path.resolve().parent
        near = any((each / name).is_file() for each in (folder, folder.parent) for name in _TELLING)
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written ({error.strerror}); name another file") from error
    if near:
        # Imported only now, since it loads Optuna.
        from stantune.search.directory.directory import owner_of

        if (owner := owner_of(path)) is not None:
            raise UsageError(f"{option} {path} is a file of what was searched in {owner}; name another")


def check_checkpoint(path: Path | None) -> None:
    """Make the folder that --checkpoint names; raises UsageError now where no file can be written there."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--checkpoint {path} cannot be written ({error.strerror}); name another file") from error
    check_file("--checkpoint", path)
    if path.exists() and not path.is_file():
        raise UsageError(f"--checkpoint {path} is a device or a pipe, in which nothing is kept; name another file")
