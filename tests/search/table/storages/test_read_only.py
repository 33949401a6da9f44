"""A search that may only be read, another user's say: it can be looked at, as it is now, and nothing is written."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - another user may not be able to import it
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from stantune.errors import StantuneError, UsageError
from stantune.parameters import Float
from stantune.protocols import Metric
from stantune.search.directory.directory import SearchDirectory
from stantune.search.table import studies
from stantune.search.table.looking.look import look
from stantune.search.table.store import Store
from stantune.space import Space

SPACE = Space({"lr": Float(0.1, 10.0)})
NOBODY = 65534
AsReader: TypeAlias = Callable[[Path], AbstractContextManager[None]]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions are others there")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that all users may look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@contextmanager
def as_reader(directory: Path) -> Iterator[None]:
    """Be somebody who may read a directory, and not write to it: another user, where we may become one."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
        return
    modes = {path: path.stat().st_mode for path in (*directory.iterdir(), directory)}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in reversed(modes):
            path.chmod(modes[path])


def begin(directory: SearchDirectory) -> Store:
    """Begin a search and have a first result."""
    store = Store.open(directory.url, directory.study, {"seed": 0}, SPACE, Metric("error"))
    directory.note_storage()
    store.create(0, {"lr": 1.0}, 2)
    store.record(0, 3, {"error": 50.0})
    return store


def seen(path: Path) -> Any:
    """Return what there is to see of the search in a directory."""
    directory = SearchDirectory.begun(path)
    table = studies.table_of(directory.url, directory.study)
    assert table is not None
    return [row.errors for row in table[1]], studies.compared_by(directory.url, directory.study)


@pytest.mark.parametrize("name", ["search", "with % # ? ünd space"])
@pytest.mark.parametrize("storage", [None, "journal:///{}/table.log", "sqlite:///{}/table.db"])
def test_a_search_that_may_only_be_read(folder: Path, storage: str | None, name: str) -> None:
    directory = SearchDirectory(folder / name, storage and storage.format(folder))
    with directory.locked():
        with begin(directory) as store:
            with as_reader(directory.path):
                assert seen(directory.path) == ([{3: 50.0}], ("error", "minimize"))
            store.record(0, 9, {"error": 40.0})
            with as_reader(directory.path):
                assert seen(directory.path)[0] == [{3: 50.0, 9: 40.0}]
        there = sorted(os.listdir(directory.path))
        with as_reader(directory.path):
            assert seen(directory.path)[0] == [{3: 50.0, 9: 40.0}], "nobody has it open"
    assert sorted(os.listdir(directory.path)) == there


def test_a_search_that_was_killed(folder: Path) -> None:
    directory, killed = SearchDirectory(folder / "search"), folder / "killed"
    with directory.locked(), begin(directory):
        shutil.copytree(directory.path, killed)
    with as_reader(killed):
        assert seen(killed)[0] == [{3: 50.0}], "what its files beside the table hold"


def test_one_that_looks_sees_what_is_written_meanwhile(folder: Path) -> None:
    """Also where it began to look when nobody had the table open."""
    from stantune.search.table.storages.opening import reading

    directory = SearchDirectory(folder / "search")
    with directory.locked():
        begin(directory).release()
        with as_reader(directory.path):
            looking = reading(directory.url, directory.study)
            found = looking.__enter__()
            assert found is not None
            storage, study_id = found

            def steps() -> list[int]:
                (trial,) = storage.get_all_trials(study_id)
                return sorted(trial.intermediate_values)

            assert steps() == [3]
        with Store.open(directory.url, directory.study, {"seed": 0}, SPACE, Metric("error")) as store:
            store.record(0, 9, {"error": 40.0})
            with as_reader(directory.path):
                assert steps() == [3, 9]
            store.record(0, 27, {"error": 30.0})
            with as_reader(directory.path):
                assert steps() == [3, 9, 27]
        with as_reader(directory.path):
            looking.__exit__(None, None, None)


def test_where_nothing_was_begun_there_is_no_search(folder: Path) -> None:
    directory = SearchDirectory(folder / "search")
    with directory.locked():
        pass
    with as_reader(directory.path), pytest.raises(UsageError, match="there is no search"):
        look(directory.path)


@pytest.mark.parametrize("closed", ["", "search.json", "search.db"])
def test_one_that_may_not_be_read_is_said_in_a_sentence(folder: Path, closed: str) -> None:
    directory = SearchDirectory(folder / "search")
    with directory.locked(), begin(directory):
        pass
    (directory.path / closed).chmod(0o000)
    try:
        with as_reader(folder), pytest.raises(StantuneError, match=r"Permission denied.*see that you may read the dir"):
            seen(directory.path)
    finally:
        (directory.path / closed).chmod(0o700)
