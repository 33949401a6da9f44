"""Whose a study in a shared storage is: by its exact name, and by the directory and the machine that began it."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from told import SETTINGS, play

from stantune.errors import StoreError, UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.operating.exporting import copy_study
from stantune.search.table import studies
from stantune.search.table.storages.opening import sqlite_url


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A storage that several searches share."""
    return sqlite_url(tmp_path / "shared.db")


@pytest.fixture
def caseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have storages look for names as MySQL does, if not told otherwise, and refuse a second one likewise."""
    find, make = RDBStorage.get_study_id_from_name, RDBStorage.create_new_study

    def as_there(storage: RDBStorage, name: str) -> str:
        names = [study.study_name for study in storage.get_all_studies()]
        return next((each for each in names if each.lower() == name.lower()), name)

    def found(storage: RDBStorage, name: str) -> int:
        return find(storage, as_there(storage, name))

    def made(storage: RDBStorage, directions: Any, study_name: str) -> int:
        return make(storage, directions, as_there(storage, study_name))

    monkeypatch.setattr(RDBStorage, "get_study_id_from_name", found)
    monkeypatch.setattr(RDBStorage, "create_new_study", made)


@pytest.mark.usefixtures("caseless")
def test_a_database_that_ignores_case_does_not_make_two_searches_one(url: str, tmp_path: Path) -> None:
    first, second = (SearchDirectory(tmp_path / name, url) for name in ("LeNet", "lenet"))
    play(first, most=3)
    names = [first.study]
    assert studies.identity_of(url, second.study) is None
    assert studies.table_of(url, second.study) is None
    with pytest.raises(UsageError) as error:
        play(second, most=3)
    said = str(error.value)
    assert first.study in said
    assert second.study in said
    assert "`out`" in said
    with second.locked():
        assert second.clear()
    assert not studies.delete(url, second.study)
    assert optuna.get_all_study_names(url) == names
    # The one that is there goes on.
    play(first)
    assert studies.delete(url, first.study)
    assert optuna.get_all_study_names(url) == []


@pytest.mark.usefixtures("caseless")
def test_a_search_that_was_begun_does_not_go_on_with_one_of_another_case(url: str, tmp_path: Path) -> None:
    first, second = (SearchDirectory(tmp_path / name, url) for name in ("LeNet", "lenet"))
    play(second, most=3)
    studies.delete(url, second.study)
    play(first, most=3)
    with pytest.raises(StoreError, match="is gone"):
        play(second, most=3)


@pytest.mark.usefixtures("caseless")
def test_half_a_copy_of_another_case_is_left(url: str, tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path / "lenet")
    play(directory, most=3)
    other = f"stantune {tmp_path / 'LeNet'}"
    optuna.create_study(study_name=other, storage=url).set_user_attr("stantune:copying", "another's")
    with pytest.raises(UsageError, match="LeNet' already"):
        copy_study(directory, url)
    assert optuna.get_all_study_names(url) == [other]


class Machines:
    """Several machines that have a directory of the same path, each its own, and one storage."""

    def __init__(self, path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.url = url
        self.here = ""
        self._monkeypatch = monkeypatch

    def at(self, node: str) -> SearchDirectory:
        """Go to a machine; return the directory there."""
        if self.here and self.path.exists():
            self.path.rename(self._away(self.here))
        if self._away(node).exists():
            self._away(node).rename(self.path)
        self.here = node
        self._monkeypatch.setattr(platform, "node", lambda: node)
        return SearchDirectory(self.path, self.url)

    def begins_anew(self) -> None:
        """Do what `fresh` does, on the machine that we are at."""
        directory = SearchDirectory(self.path, self.url)
        with directory.locked():
            directory.clear()

    def _away(self, node: str) -> Path:
        return self.path.with_name(f"disk of {node}")


@pytest.fixture
def machines(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Them."""
    return Machines(tmp_path / "runs", url, monkeypatch)


def trials(directory: SearchDirectory) -> int:
    """Return how many trials its study has; 0 where there is none."""
    found = studies.table_of(directory.url, directory.study)
    return 0 if found is None else len(found[1])


@pytest.mark.parametrize("how", ["fresh", "delete"])
def test_another_machine_s_search_is_not_deleted(machines: Machines, how: str) -> None:
    play(machines.at("a"), most=5)
    there = machines.at("b")
    with there.locked():
        there.checkpoint(0).parent.mkdir()
        there.checkpoint(0).write_bytes(b"x")
        with pytest.raises(UsageError) as error:
            there.clear() if how == "fresh" else there.delete()
        assert there.checkpoint(0).exists(), "nothing is deleted before"
    said = str(error.value)
    assert f"was begun in {machines.path} on a" in said
    assert "`out`" in said
    assert "delete-study" in said
    assert trials(there) == 5
    # Where it was begun it goes on, and may be deleted.
    play(machines.at("a"), most=1)
    machines.begins_anew()
    assert trials(there) == 0


def test_who_goes_on_with_another_machine_s_search_may_delete_it(machines: Machines) -> None:
    play(machines.at("a"), most=5)
    there = machines.at("b")
    play(there, most=1)
    assert trials(there) == 6
    machines.begins_anew()
    assert trials(there) == 0
    play(there, most=2)
    # What was begun there is not the first one's any more.
    machines.at("a")
    with pytest.raises(UsageError, match="runs on b"):
        machines.begins_anew()
    assert trials(there) == 2


def test_a_directory_that_was_lost_on_the_same_machine_is_begun_anew(machines: Machines) -> None:
    there = machines.at("a")
    play(there, most=5)
    shutil.rmtree(there.path)
    machines.begins_anew()
    assert trials(there) == 0


@pytest.mark.parametrize("another_command", [False, True])
def test_one_that_was_killed_as_it_began_is_its_directory_s_also_under_another_name(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, another_command: bool
) -> None:
    there = machines.at("a")
    with monkeypatch.context() as patch:
        # Killed between the study and the note of it.
        patch.setattr(SearchDirectory, "note_storage", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            play(there)
    # A container has another name each time that it is started.
    monkeypatch.setattr(platform, "node", lambda: "b")
    if another_command:
        with pytest.raises(UsageError, match="another search"):
            play(there, replace(SETTINGS, seed=2))
    machines.begins_anew()
    assert studies.identity_of(there.url, there.study) is None


def test_a_directory_that_was_lost_goes_on_under_another_name_and_is_begun_anew_then(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = machines.at("a")
    play(there, most=5)
    shutil.rmtree(there.path)
    monkeypatch.setattr(platform, "node", lambda: "b")
    with pytest.raises(UsageError, match=r"if this directory was lost \(.*\), give the search's command once without"):
        machines.begins_anew()
    play(there, most=0)
    machines.begins_anew()
    assert trials(there) == 0


def test_a_key_is_no_longer_noted_than_its_study_is_there(machines: Machines) -> None:
    there = machines.at("a")
    play(there, most=1)
    assert "owner" in json.loads((there.path / "search.json").read_text())
    machines.begins_anew()
    assert "owner" not in json.loads((there.path / "search.json").read_text())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("identity", "CAST(X'22FF22' AS TEXT)"),
        ("identity", "NULL"),
        ("identity", f"'{'[' * 100_000}'"),
        ("identity", "'{'"),
        ("owner", "NULL"),
        ("owner", "'\"x\"'"),
        ("owner", "'[\"x\", 2]'"),
    ],
    ids=["no-text", "null", "deep", "no-json", "no-owner", "half-an-owner", "a-list"],
)
@pytest.mark.parametrize("how", ["fresh", "delete"])
def test_a_study_with_a_damaged_attribute_is_deleted(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, key: str, value: str, how: str
) -> None:
    directory = SearchDirectory(tmp_path / "runs", url)
    play(directory, most=1)
    # Neither is it known by its note.
    shutil.rmtree(directory.path)
    monkeypatch.setattr(platform, "node", lambda: "b")
    with closing(sqlite3.connect(tmp_path / "shared.db")) as connection, connection:
        connection.execute(f"UPDATE study_user_attributes SET value_json = {value} WHERE key = ?", (f"stantune:{key}",))
    with directory.locked():
        assert directory.clear() if how == "fresh" else directory.delete()
    assert optuna.get_all_study_names(url) == []


@pytest.mark.parametrize(
    "error",
    [
        sqlalchemy.exc.OperationalError("", {}, Exception("the server went away")),
        OSError(errno.EIO, "the server went away"),
    ],
)
def test_whose_a_study_is_is_not_guessed_while_the_database_is_held(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    directory = SearchDirectory(tmp_path / "runs", url)
    play(directory, most=1)

    def held(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch, directory.locked():
        patch.setattr(studies, "owner_of", held)
        with pytest.raises(StoreError, match="the server went away"):
            directory.clear()
    assert trials(directory) == 1


def test_a_search_of_before_has_no_mark_and_gets_none(machines: Machines, url: str) -> None:
    there = machines.at("a")
    play(there, most=5)
    storage = RDBStorage(url)
    storage.set_study_user_attr(storage.get_study_id_from_name(there.study), "stantune:owner", None)
    play(there, most=1)
    assert studies.begun_by(url, there.study) is None
    machines.at("b")
    machines.begins_anew()
    assert trials(there) == 0


def test_a_table_in_the_directory_has_no_mark(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    play(directory, most=1)
    assert studies.begun_by(directory.url, directory.study) is None
    assert "owner" not in json.loads((tmp_path / "search.json").read_text())


def test_the_mark_is_no_part_of_what_a_search_is(machines: Machines) -> None:
    there = machines.at("a")
    play(there, most=1)
    assert "owner" not in json.dumps(studies.identity_of(there.url, there.study))
