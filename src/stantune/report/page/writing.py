"""Writes the report page of searches to a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stantune.compare.study.contract import StudySummary
from stantune.compare.study.folder import holds_study, study_in
from stantune.errors import StantuneError, UsageError
from stantune.files import write_whole
from stantune.report.page.contract import SearchNumbers
from stantune.report.page.numbers import report_numbers, search_numbers
from stantune.report.page.page import MARK, page
from stantune.report.page.sections.profiled import check_all_used, profile_for, read_profile
from stantune.report.page.sections.searched import entries_of_result, entries_of_table
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.last_run import LastRun
from stantune.search.results.summary import summarise
from stantune.search.table.looking.look import look
from stantune.search.table.looking.recorded import recorded

if TYPE_CHECKING:
    from stantune.search.results.result import SearchResult

NAME = "report.html"


def write_report(
    directories: Sequence[Path],
    out: Path | None = None,
    storage: str | None = None,
    profiles: Sequence[Path] = (),
) -> Path:
    """Write one page of the searches in these directories, running or not.

    Args:
        directories: where they are; or a study's folder alone, for all of its searches.
        out: the file, report.html in the first directory by default.
        storage: the URL of their storage, which is needed where that has a password.
        profiles: what `stantune profile --json` wrote of their problems, to set beside what trials measured.

    Returns:
        The file.

    Raises:
        UsageError: there is no search, something else is in the file, or a profile is none of theirs.
        StantuneError: Plotly is not installed, a table cannot be read, or the file cannot be written.
    """
    read = [read_profile(file) for file in profiles]
    searches, study = [], None
    if len(directories) == 1 and holds_study(directories[0]):
        study = study_in(directories[0])
        begun = [directories[0] / search.directory for search in study.searches if search.seconds is not None]
        # What a search came to is in the study's result, and its row in the study's table, without its folder, too.
        there = [path for path in begun if path.is_dir()]
        if not there:
            gone = "the folders of its searches are gone" if begun else "no search of it has begun"
            raise UsageError(f"there is nothing to show of the study in {directories[0]}: {gone}")
        out = directories[0] / NAME if out is None else out
        directories = there
    for path in directories:
        seen = look(path, storage)
        search = recorded(seen)
        summary = summarise(search.objective, search.settings, search.state)
        asked: dict[str, Any] = {"finalists": seen.finalists} if seen.finalists else {"final": "none"}
        searches.append(
            search_numbers(
                *search._replace(settings=replace(search.settings, **asked)),
                path.absolute(),
                seen.state,
                summary=summary,
                machine={} if seen.run is None else seen.run.machine,
                profiled=profile_for(read, search.identity, str(path)),
                # Of a study's many searches that would take minutes.
                entries=None if study is not None else entries_of_table(search.identity, summary, path),
            )
        )
    check_all_used(read, [search.summary.problem for search in searches])
    return write_page(searches, directories[0] / NAME if out is None else out, study)


def report_of(result: SearchResult, file: Path | None = None) -> Path:
    """Write the page of a search's result; see `SearchResult.report`."""
    objective, settings = result.objective, result.settings
    # In JSON's kinds, as a table has it.
    identity = json.loads(json.dumps({**settings.identity(objective), "space": objective.space.as_json()}))
    now: Literal["interrupted", "done"] = "done" if result.complete else "interrupted"
    run = LastRun.read(SearchDirectory(result.path).run)
    search = search_numbers(
        objective,
        settings,
        result.state,
        identity,
        result.path,
        now,
        summary=result.summary,
        machine={} if run is None else run.machine,
        entries=entries_of_result(objective, result.summary, result.path),
    )
    return write_page([search], result.path / NAME if file is None else file)


def write_page(searches: Sequence[SearchNumbers], file: Path, study: StudySummary | None = None) -> Path:
    """Write one page of searches to a file, in place of an earlier page; see `write_report`."""
    text = page(report_numbers(searches, study))
    try:
        _check_ours(file)
        write_whole(file, text.encode())
    except OSError as error:
        raise StantuneError(
            f"the report cannot be written to {file} ({error.strerror}); name another file with `out`"
        ) from error
    return file


def _check_ours(file: Path) -> None:
    """Raise UsageError where there is a file that is no page of ours."""
    if not file.is_file():
        return
    with file.open("rb") as there:
        head = there.read(200)
    if head and MARK.encode() not in head:
        raise UsageError(f"{file} is there, and it is no report; name another file with `out`, or move it away")
