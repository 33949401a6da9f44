"""A search whose table is in another file than its own: it is the same one from any working folder."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from told import NUMBERS, SETTINGS, outcome, play

from stantune.errors import UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.opening import open_session
from stantune.search.table.looking.look import look


@pytest.fixture(params=["sqlite:///runs/all.db", "journal:///runs/all.log"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file by a path that is relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return str(request.param)


def noted(directory: SearchDirectory) -> str:
    """Return where the directory says that its table is."""
    return str(json.loads((directory.path / "search.json").read_text())["storage"])


def test_from_another_folder_the_table_is_where_it_was(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = SearchDirectory(Path("runs/a"), url)
    play(directory)
    assert directory.study == f"stantune {tmp_path / 'runs' / 'a'}"
    monkeypatch.chdir("runs")
    assert len(look(Path("a")).rows) == 17
    with (
        pytest.raises(UsageError, match=r"keeps its trials in .*runs/all\..*says `storage`=.*runs/runs/all\."),
        SearchDirectory(Path("a"), url).locked(),
    ):
        pass
    again = SearchDirectory.begun(Path("a"))
    with again.locked():
        assert again.delete()
    assert not again.path.exists()
    monkeypatch.chdir(tmp_path)
    assert optuna.get_all_study_names(url) == [] if url.startswith("sqlite") else True
    with pytest.raises(UsageError, match="there is no search"):
        look(Path("runs/a"), url)


def test_a_note_of_before_is_relative_and_made_absolute(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = SearchDirectory(Path("runs/a"), url)
    play(directory, most=3)
    (directory.path / "search.json").write_text(json.dumps({"storage": url}))
    assert SearchDirectory.begun(directory.path).url == directory.url, "in the folder in which it was begun"
    play(SearchDirectory(Path("runs/a"), url))
    assert noted(directory) == directory.url
    monkeypatch.chdir("runs")
    assert len(look(Path("a")).rows) == 17


def test_a_program_may_change_its_folder_meanwhile(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = SearchDirectory(Path("runs/a"), url)
    with directory.locked(), open_session(NUMBERS, SETTINGS, directory) as session:
        segment = session.ask()
        assert segment is not None
        monkeypatch.chdir("runs")
        session.tell(segment, outcome(segment))
    assert len(look(Path("a")).rows[0].errors) == 1


def test_a_table_that_is_not_there_is_told_where_its_search_is_deleted(url: str, tmp_path: Path) -> None:
    directory = SearchDirectory(Path("runs/a"), url)
    play(directory, most=3)
    for file in (tmp_path / "runs").glob("all.*"):
        file.unlink()
    with directory.locked():
        assert not directory.clear()
        assert directory.clear(), "now none was begun"
