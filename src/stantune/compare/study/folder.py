"""A study's folder: its result, a folder for each search, and a lock."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydantic import ValidationError

from stantune.compare.study.contract import StudiedProblem, StudiedSearch, StudySummary
from stantune.compare.study.numbers import searched, summary_of, waiting
from stantune.errors import StantuneError, UsageError
from stantune.files import read_json, write_whole
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.locking import is_locked
from stantune.search.directory.names import STUDY_RESULT
from stantune.search.operating.status import status_of
from stantune.search.operating.told import StatusResult
from stantune.search.table.looking.look import look

if TYPE_CHECKING:
    # It loads PyTorch, which those who only look do without.
    from stantune.compare.study.ways import Way

_LOCK = ".study.lock"
_REQUEST = "stop.request"
# Letters of a problem's name in a folder's; a way has as many, and a file's name may have 255.
_LONGEST = 100


def holds_study(folder: Path) -> bool:
    """Tell whether there is a study in this folder."""
    return (folder / STUDY_RESULT).is_file()


def directory_of(problem: str, way: Way, seed: int) -> str:
    """Return the name of a search's folder."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", problem)[:_LONGEST].strip("-.") or "problem"
    return f"{name}-{way.folder}-seed-{seed}"


def is_running(folder: Path) -> bool:
    """Tell whether a process runs the study in this folder; it may be between two searches."""
    try:
        return is_locked(folder / _LOCK)
    except OSError:
        return False


def ask_to_stop(folder: Path) -> None:
    """Ask the study that runs in this folder to end in good order; raises StantuneError where that cannot be written.

    It is asked of the study, and not of the search that it runs just now: that may be over before it looks.
    """
    file = folder / _REQUEST
    try:
        write_whole(file, b"")
    except OSError as error:
        raise StantuneError(
            f"{file} cannot be written ({error.strerror or error}), by which the study is asked; do it as somebody who "
            "may write there"
        ) from error


def asked_to_stop(folder: Path) -> bool:
    """Tell whether somebody asked for that since the folder was locked."""
    return (folder / _REQUEST).exists()


def take_back(folder: Path) -> None:
    """Ask for nothing any more."""
    with suppress(OSError):
        (folder / _REQUEST).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder if need be and keep other studies out of it.

    Raises StantuneError where it cannot be used, or another study is running in it, UsageError where it is a search's.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not holds_study(folder) and SearchDirectory(folder).may_hold_search():
            raise UsageError(f"{folder} is a search's own directory; choose another folder with `out`")
        # Of the process: another thread may give it back than took it.
        lock = FileLock(folder / _LOCK, thread_local=False)
        lock.acquire(timeout=1)
    except Timeout:
        raise StantuneError(
            f"another study is running in {folder}; wait for it, end it, or choose another folder with `out`"
        ) from None
    except OSError as error:
        raise StantuneError(
            f"the folder {folder} cannot be written to ({error.strerror or error}); choose another with `out`"
        ) from error
    try:
        # What was asked of an earlier run is over with it.
        take_back(folder)
        # And what a process was writing when it was killed.
        with suppress(OSError):
            for part in folder.glob(f".{STUDY_RESULT}.*.part"):
                part.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def written(folder: Path) -> StudySummary | None:
    """Return the study's result as it was written last; None where there is none.

    Raises StantuneError where it cannot be read, UsageError where it is no study's.
    """
    file = folder / STUDY_RESULT
    try:
        summary = StudySummary.model_validate(read_json(file))
        if {search.problem for search in summary.searches} - {problem.name for problem in summary.problems}:
            raise ValueError("a search of none of its problems")
        return summary
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StantuneError(f"{file} cannot be read ({error.strerror or error}); mend that, or move it away") from error
    except (ValueError, ValidationError):
        raise UsageError(
            f"{file} is no study's result, or one of another version; move it away, and the same command writes it "
            "anew from what the searches in their folders came to"
        ) from None


def write(folder: Path, summary: StudySummary) -> None:
    """Write the study's result; raises StantuneError where that cannot be."""
    file = folder / STUDY_RESULT
    try:
        write_whole(file, f"{summary.model_dump_json(indent=2)}\n".encode())
    except OSError as error:
        raise StantuneError(f"{file} cannot be written ({error.strerror or error}); make room, and go on") from error


def looked_at(folder: Path, begun: StudiedSearch) -> StudiedSearch:
    """Return what a search has come to by now, as its folder has it; a failure that was noted stays one."""
    try:
        seen = look(folder / begun.directory)
    except StantuneError as error:
        # Not begun, or just beginning; or its table cannot be read.
        there = (folder / begun.directory).is_dir() and not isinstance(error, UsageError)
        return begun.model_copy(update={"state": "failed", "failure": str(error)}) if there else begun
    failure = begun.failure if seen.state == "interrupted" else None
    return searched(begun, seen, failure)


def searches_of(
    folder: Path, problems: Sequence[StudiedProblem], ways: Sequence[Way], seeds: Sequence[int]
) -> list[StudiedSearch]:
    """Return all searches of a study as they are now, in the order in which they are run."""
    return [
        looked_at(folder, waiting(problem.name, way.name, seed, directory_of(problem.name, way, seed)))
        for seed in seeds
        for problem in problems
        for way in ways
    ]


def study_in(folder: Path, *, watching: bool = False) -> StudySummary:
    """Return where the study in this folder stands now, as its searches' tables have it; nothing is written.

    With `watching`, of a study that runs, no table is read of a search that the study has written to be done: who looks
    again and again would read large ones for nothing. One that is gone on with has a process in its directory.

    Raises UsageError where there is none.
    """
    before = written(folder)
    if before is None:
        raise UsageError(f"there is no study in {folder}; give the folder of one, as `out` named it")
    searches = [
        search
        if watching and search.state == "done" and not SearchDirectory(folder / search.directory).in_use()
        else looked_at(folder, search)
        for search in before.searches
    ]
    return summary_of(before.problems, before.ways, before.seeds, searches)


def now_in(folder: Path, summary: StudySummary) -> dict[str, StatusResult]:
    """Return more of the searches that run now, by their directories; nothing of one that has no table yet."""
    found = {}
    for search in summary.searches:
        if search.state == "running":
            with suppress(StantuneError):
                found[search.directory] = status_of(look(folder / search.directory))
    return found
