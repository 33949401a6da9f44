"""Whose a study in a shared storage is: by its exact name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from told import play

from stantune.errors import StoreError, UsageError
from stantune.search.operating.exporting import copy_study
from stantune.search.table import studies
from stantune.search.table.directory import SearchDirectory
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
