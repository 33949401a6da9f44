"""Storages by their URLs: a journal is searched in, gone on with, mended, waited for; what is wrong is one sentence."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection

from stantune.errors import StoreError, UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.operating.exporting import copy_study
from stantune.search.plan.hyperband import plan
from stantune.search.table import studies
from stantune.search.table.storages import opening as storage
from stantune.search.table.storages import retry
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store

PLAN = plan(9, 1, 3)
NAME = "journalled"
SETTING = {"lr": 0.1, "momentum": 0.5, "hidden": 200, "pool": "max"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table.log"


@pytest.fixture
def url(file: Path) -> str:
    return f"journal:///{file}"


def opened(simulated: ModuleType, url: str) -> Store:
    return Store.open(url, NAME, simulated.IDENTITY, simulated.SPACE, simulated.METRIC)


@pytest.fixture
def expected(simulated: ModuleType, tmp_path: Path) -> object:
    """What the table is in the end, in a database that nothing happens to."""
    with opened(simulated, sqlite_url(tmp_path / "undisturbed.db")) as store:
        simulated.search(store, PLAN, simulated.outcome(1))
        return store.rows(), store.finals()


def test_a_journal_is_optuna_s_own_and_holds_what_a_database_does(
    simulated: ModuleType, file: Path, url: str, expected: object
) -> None:
    with opened(simulated, url) as store:
        simulated.search(store, PLAN, simulated.outcome(1))
        assert (store.rows(), store.finals()) == expected
    with opened(simulated, url) as store:
        assert (store.rows(), store.finals()) == expected
    theirs = optuna.load_study(
        study_name=NAME, storage=optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    ).trials
    assert len(theirs) == 9 + 5 + 3
    assert all(trial.state.is_finished() for trial in theirs)
    identity, rows = studies.table_of(url, NAME) or ({}, [])
    assert (identity["seed"], [row.errors for row in rows]) == (0, [row.errors for row in expected[0]])  # type: ignore[index]
    assert studies.table_of(url, "another") is None
    assert studies.delete(url, NAME)
    assert not studies.delete(url, NAME)
    assert studies.identity_of(url, NAME) is None


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_that_was_cut_is_written_again(
    simulated: ModuleType, file: Path, url: str, expected: object, cut: int
) -> None:
    """Every few lines the process is killed in the middle of one."""
    ended = False
    while not ended:
        asked, outcome = 0, simulated.outcome(1)

        def of(number: int, stop: int) -> float | None:
            nonlocal asked
            asked += 1
            if asked == 6:
                raise InterruptedError
            return outcome(number, stop)  # type: ignore[no-any-return]  # noqa: B023

        with opened(simulated, url) as store:
            try:
                simulated.search(store, PLAN, of)
                ended = True
                assert (store.rows(), store.finals()) == expected
            except InterruptedError:
                file.write_bytes(file.read_bytes()[:-cut])


def fill_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None] = lambda: None) -> None:
    """Have the next line written by half; `then` is called before that is known."""
    fsync = os.fsync

    def full(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        os.ftruncate(descriptor, file.stat().st_size - len(file.read_bytes().splitlines()[-1]) // 2)
        then()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("later", [False, True], ids=["at-once", "before-the-next-write"])
def test_a_write_that_a_full_disk_cut_is_asked_for_again(
    simulated: ModuleType, file: Path, url: str, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    cut_off = storage._cut_off

    def refused(*given: Any) -> None:
        monkeypatch.setattr(storage, "_cut_off", cut_off)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(simulated, url) as store:
        store.create(0, SETTING, 2)
        fill_the_disk(
            file, monkeypatch, lambda: monkeypatch.setattr(storage, "_cut_off", refused if later else cut_off)
        )
        with pytest.raises(StoreError, match=r"No space left on device\): make room and give the same command again"):
            store.record(0, 1, {simulated.METRIC.name: 0.5})
        assert file.read_bytes().endswith(b"\n") is not later
        store.record(0, 1, {simulated.METRIC.name: 0.5})
        store.create(1, SETTING, 2)
        found = store.rows()
    with opened(simulated, url) as store:
        assert store.rows() == found


def test_who_waited_for_the_lock_does_not_write_behind_half_a_line(
    simulated: ModuleType, file: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = JournalFileOpenLock.release

    def released(lock: JournalFileOpenLock) -> None:
        release(lock)
        monkeypatch.setattr(JournalFileOpenLock, "release", release)
        other.create_new_study([StudyDirection.MINIMIZE], "another")

    with opened(simulated, url) as store:
        store.create(0, SETTING, 2)
        other = JournalStorage(JournalFileBackend(str(file)))
        fill_the_disk(file, monkeypatch, lambda: monkeypatch.setattr(JournalFileOpenLock, "release", released))
        with pytest.raises(StoreError, match="No space left on device"):
            store.record(0, 1, {simulated.METRIC.name: 0.5})
        store.record(0, 1, {simulated.METRIC.name: 0.5})
    found = optuna.get_all_study_names(JournalStorage(JournalFileBackend(str(file))))
    assert sorted(found) == ["another", NAME]


def test_what_another_program_left_that_was_killed_meanwhile_is_cut_off(
    simulated: ModuleType, file: Path, url: str
) -> None:
    with opened(simulated, url) as store:
        store.create(0, SETTING, 2)
        with file.open("a") as journal:
            journal.write('{"op_code":4,"wor')
        store.record(0, 1, {simulated.METRIC.name: 0.5})
        found = store.rows()
    with opened(simulated, url) as store:
        assert store.rows() == found


def test_nothing_is_cut_off_a_whole_journal(simulated: ModuleType, file: Path, url: str) -> None:
    with opened(simulated, url) as store:
        store.create(0, SETTING, 2)
    before = file.read_bytes()
    with opened(simulated, url):
        assert file.read_bytes().startswith(before)


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")
def test_a_lock_that_a_killed_process_held_is_broken(
    simulated: ModuleType, file: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "JOURNAL_LOCK_SECONDS", 1)
    with opened(simulated, url):
        pass
    file.with_name("table.log.lock").touch()
    began = time.monotonic()
    with opened(simulated, url) as store:
        store.create(0, SETTING, 2)
    assert 1 < time.monotonic() - began < 20


def test_gone_for_a_while(simulated: ModuleType, file: Path, url: str, expected: object, tmp_path: Path) -> None:
    away, outcome, asked = tmp_path / "away", simulated.outcome(1), 0
    in_its_place = []

    def bring_back() -> None:
        in_its_place.append(file.exists())
        away.rename(file)

    def of(number: int, stop: int) -> float | None:
        nonlocal asked
        asked += 1
        if asked == 12:
            file.rename(away)
            threading.Timer(0.8, bring_back).start()
        return outcome(number, stop)  # type: ignore[no-any-return]

    with opened(simulated, url) as store:
        simulated.search(store, PLAN, of)
        assert in_its_place == [False], "no empty journal was made meanwhile"
        assert (store.rows(), store.finals()) == expected
    with opened(simulated, url) as store:
        assert (store.rows(), store.finals()) == expected


def test_gone_for_good(simulated: ModuleType, file: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "SECONDS", 0.4)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.1)
    with opened(simulated, url) as store:
        file.unlink()
        with pytest.raises(StoreError, match=r"No such file or directory.*see that its directory exists"):
            store.create(0, SETTING, 2)
        assert not file.exists()


@pytest.mark.parametrize(
    "content",
    [
        *(b"not a journal\n", b"{}\n", b"5\n", b'{"op_code": 77}\n', b"[1]\nx"),
        # Nothing of these was cut by a kill.
        *(b'{"a": 1}', b"a note without an end", b"[1, 2]", b"{", b"\0\0", b"one\ntwo"),
        b'{"op_code":0,"worker_id":"a","study_name":"b","directions":[1]}\nand a note',
    ],
)
@pytest.mark.parametrize("how", ["search", "delete", "look", "export"])
def test_something_else_is_no_journal_and_stays_as_it_is(
    simulated: ModuleType, file: Path, url: str, content: bytes, how: str, tmp_path: Path
) -> None:
    file.write_bytes(content)
    own = SearchDirectory(tmp_path / "search")
    own.path.mkdir()
    Store.open(own.url, own.study, simulated.IDENTITY, simulated.SPACE, simulated.METRIC).release()
    use = {
        "search": lambda: opened(simulated, url),
        "delete": lambda: studies.delete(url, NAME),
        "look": lambda: studies.identity_of(url, NAME),
        "export": lambda: copy_study(own, url),
    }[how]
    with pytest.raises(StoreError, match=r"the trial table at journal:.*cannot be used") as error:
        use()
    assert "\n" not in str(error.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("cut", ["", '{"op', '{"op_code":4,"wor', '{"op_code":4\0\0', "\0\0\0"])
def test_what_a_kill_or_a_power_cut_left_of_a_line_is_cut_off(
    simulated: ModuleType, file: Path, url: str, cut: str
) -> None:
    opened(simulated, url).release()
    whole = file.read_bytes()
    file.write_bytes(whole + cut.encode())
    assert studies.identity_of(url, NAME) is not None
    storage.mend(url)
    assert file.read_bytes() == whole


def test_a_first_line_that_was_cut_is_written_again(simulated: ModuleType, file: Path, url: str) -> None:
    file.write_text('{"op_code":0,"worker_id":"a')
    opened(simulated, url).release()
    assert studies.identity_of(url, NAME) is not None


@pytest.mark.parametrize("url", ["journal://", "journal:///", "journal://runs/table.log"])
def test_a_journal_without_a_file(simulated: ModuleType, url: str) -> None:
    with pytest.raises(UsageError, match=r"names no journal file: give journal:///runs/search.log"):
        opened(simulated, url)


@pytest.mark.parametrize("url", ["journal:table.log", "journal:/table.log", "table.log", ""])
def test_no_url(simulated: ModuleType, url: str) -> None:
    for look in (studies.identity_of, studies.table_of, studies.delete):
        with pytest.raises(UsageError, match="is no storage URL: give one like sqlite:///"):
            look(url, NAME)
    with pytest.raises(UsageError, match="is no storage URL: give one like sqlite:///"):
        opened(simulated, url)


def test_a_directory_that_is_not_there(simulated: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="see that its directory exists"):
        opened(simulated, f"journal:///{tmp_path}/nowhere/table.log")


def test_a_search_s_directory_remembers_its_journal(tmp_path: Path, url: str) -> None:
    directory = SearchDirectory(tmp_path / "search", url)
    with directory.locked():
        directory.note_storage()
    again = SearchDirectory.begun(tmp_path / "search")
    assert (again.url, again.study) == (directory.url, directory.study)
    with (
        pytest.raises(UsageError, match=r"keeps its trials in journal:///"),
        SearchDirectory(tmp_path / "search").locked(),
    ):
        pass


def test_looking_makes_no_journal(url: str, file: Path) -> None:
    assert studies.identity_of(url, NAME) is None
    assert studies.table_of(url, NAME) is None
    assert not studies.delete(url, NAME)
    assert not file.exists()


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("sqlite:///runs/all.db", "sqlite:///{}/runs/all.db"),
        ("sqlite+pysqlite:///../all.db?timeout=3", "sqlite+pysqlite:///{}/../all.db?timeout=3"),
        ("journal:///all.log", "journal:///{}/all.log"),
        *((same, same) for same in ("sqlite:////all.db", "sqlite://", "sqlite:///:memory:", "journal:////a b/all.log")),
        *((same, same) for same in ("sqlite:///file:all.db?uri=true", "postgresql://user:pw@host/name", "none", "")),
    ],
)
def test_a_url_that_names_the_same_file_in_any_folder(
    url: str, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.located(url) == there.format(tmp_path)
    assert storage.same_place(url, there.format(tmp_path))
    assert storage.located(storage.located(url)) == storage.located(url)


def test_a_link_to_a_storage_is_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    monkeypatch.chdir(tmp_path)
    assert storage.same_place("sqlite:///link/all.db", f"sqlite:///{tmp_path}/there/../there/all.db")
    assert not storage.same_place("sqlite:///link/all.db", f"sqlite:///{tmp_path}/all.db")
