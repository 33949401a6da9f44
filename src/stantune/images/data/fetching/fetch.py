"""Fetching a data set: sources in order, each file placed whole and checked or not at all."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stantune.errors import DataError, UsageError
from stantune.images.data.fetching.catalog import DataFile, Description, data_root, describe, locate
from stantune.images.data.fetching.sources import SOURCES, RefusalError
from stantune.images.data.reading.formats import UnsoundError, read

_TEMPORARY = ".fetch-"
Say = Callable[[str], None]


def fetch(
    name: str,
    root: Path | str | None = None,
    sources: Sequence[str] | None = None,
    say: Say | None = None,
) -> Path:
    """Bring data set `name` into `root` (see `data_root`) and return the folder that holds its files.

    Files that are there and sound are left alone; others are taken from the first of `sources` that delivers
    them whole. `sources` is the argument, else the comma separated STANTUNE_DATA_SOURCE, else official, npm,
    debian; those that do not have the data set are passed over. `say` receives one-line messages of progress.

    Each file is written in a temporary directory beside its place, synced to disk, checked and renamed, under
    a lock: at any moment a file is there whole or not at all, and a second process waits for the first and
    finds its work done.

    Raises UsageError for an unknown data set or source, DataError where the directory cannot be written or
    every source failed.
    """
    description = describe(name)
    order = source_order(description, sources)
    tell = say if say is not None else _silent
    folder = data_root(root) / description.folder
    if not _unsound(folder, description):
        _sweep_if_alone(folder, description)
        tell(f"{name}: already in {folder}")
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, lambda: tell(f"{name}: another process is fetching it; waiting")):
            _sweep(folder, description)
            refusals = _fetch_missing(description, folder, order, tell)
    except OSError as error:
        raise DataError(
            f"cannot write to {folder} ({error.strerror or error}): make it writable, or choose another "
            "directory with --data or STANTUNE_DATA."
        ) from None
    missing = _unsound(folder, description)
    if missing:
        files = ", ".join(file.name for file in missing)
        raise DataError(
            f"{name} could not be fetched ({'; '.join(refusals)}): try again later, "
            f"or place {files} in {folder} by hand."
        )
    tell(f"{name}: complete in {folder}")
    return folder


def source_order(description: Description, sources: Sequence[str] | None) -> tuple[str, ...]:
    """The sources to ask for a data set, in order: the argument, else STANTUNE_DATA_SOURCE, else all.

    Raises UsageError for an unknown source name, or where none of those named has the data set.
    """
    if sources is None:
        listed = os.environ.get("STANTUNE_DATA_SOURCE", "").split(",")
        sources = [source.strip() for source in listed if source.strip()] or list(SOURCES)
    for source in sources:
        if source not in SOURCES:
            near = difflib.get_close_matches(source, SOURCES, n=1)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            raise UsageError(f"there is no data source {source!r}{guess}: choose among {', '.join(SOURCES)}.")
    having = [source for source in SOURCES if getattr(description, source) is not None]
    chosen = tuple(dict.fromkeys(source for source in sources if source in having))
    if not chosen:
        raise UsageError(
            f"{' and '.join(sources) or 'no source'} cannot provide {description.name}: "
            f"choose among {', '.join(having)}."
        )
    return chosen


def _silent(message: str) -> None:
    pass


def _sweep(folder: Path, description: Description) -> None:
    """Delete what fetches that were killed left; call it under the lock, so that whoever made it has ended."""
    for stale in _stale(folder, description):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def _stale(folder: Path, description: Description) -> list[Path]:
    """What fetches work with: directories, and the last one of the data set's files."""
    last = {f"{_TEMPORARY}{file.name}" for file in description.files}
    return [path for path in folder.glob(f"{_TEMPORARY}*") if path.is_dir() or path.name in last]


def _sweep_if_alone(folder: Path, description: Description) -> None:
    """Delete it where no other process is fetching; where nothing was left, or may be written, nothing is touched."""
    if _stale(folder, description):
        with suppress(Timeout, OSError), FileLock(folder / ".fetch.lock").acquire(timeout=0):
            _sweep(folder, description)


def _locked(folder: Path, on_wait: Callable[[], None]) -> AbstractContextManager[FileLock]:
    """The folder's lock, held; the operating system frees it however its holder ends."""
    lock = FileLock(folder / ".fetch.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        return lock.acquire()


def _unsound(folder: Path, description: Description) -> list[DataFile]:
    """The files of a data set that are missing from `folder` or are not what they should be."""
    found = []
    for file in description.files:
        path = locate(folder, file)
        try:
            if path is None:
                raise UnsoundError("is missing")
            read(path, file)
        except (UnsoundError, OSError):
            found.append(file)
    return found


def _fetch_missing(description: Description, folder: Path, order: Sequence[str], tell: Say) -> list[str]:
    """Ask source after source until nothing is missing; returns what those that failed said."""
    refusals: list[str] = []
    for source in order:
        wanted = _unsound(folder, description)
        if not wanted:
            break
        tell(f"{description.name}: asking {source} for {len(wanted)} files")
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder, ignore_cleanup_errors=True) as work:
            try:
                for number, (file, path) in enumerate(SOURCES[source](description, wanted, Path(work)), 1):
                    if number == len(wanted):
                        _place_last(file, path, folder, Path(work))
                    else:
                        _place(file, path, folder)
                    tell(f"{description.name}: {file.name} from {source}")
                    if number == len(wanted):
                        break
            except RefusalError as error:
                refusals.append(f"{source}: {error}")
                tell(f"{description.name}: {refusals[-1]}")
    return refusals


def _place_last(file: DataFile, path: Path, folder: Path, work: Path) -> None:
    """Place the file that makes the data set whole once all that it came from is deleted.

    Nobody has a reason to fetch a whole data set, and to clean up behind a fetch that was killed right here.
    """
    kept = folder / f"{_TEMPORARY}{file.name}"
    try:
        os.replace(path, kept)
        shutil.rmtree(work, ignore_errors=True)
        _place(file, kept, folder)
    finally:
        kept.unlink(missing_ok=True)


def _place(file: DataFile, path: Path, folder: Path) -> None:
    """Move a finished file to its place in one step, once it is on disk and found to be the right one."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
    try:
        read(path, file)
    except UnsoundError as error:
        raise RefusalError(f"the {file.name} it gave {error}") from None
    os.replace(path, folder / file.name)
    if os.name == "posix":  # elsewhere a directory cannot be opened, and a rename needs no sync
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
