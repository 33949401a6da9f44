"""The trial table: any address; files and servers that cannot be used are told in one sentence."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from stantune.errors import StoreError, UsageError
from stantune.search.table import studies
from stantune.search.table.storages import opening as storage
from stantune.search.table.storages import retry
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store


def test_the_file_is_in_write_ahead_mode(table: Any, store: Store, tmp_path: Path) -> None:
    store.create(0, table.params, 2)
    raw = sqlite3.connect(tmp_path / "search.db")
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()
    store.release()
    assert not (tmp_path / "search.db-wal").exists()


def test_closing_syncs_and_leaves_the_connection_as_it_was(table: Any, store: Store) -> None:
    def mode() -> int:
        with store._storage.engine.connect() as connection:  # type: ignore[attr-defined]
            return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    normal, full = 1, 2
    store.create(0, table.params, 2)
    assert mode() == normal
    during = []
    original = store._tables._tables._close  # type: ignore[attr-defined]

    def spying(connection: Any, ended: Any) -> None:
        during.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
        original(connection, ended)

    store._tables._tables._close = spying  # type: ignore[attr-defined]
    store.close({0: "diverged"})
    assert during == [full]
    assert mode() == normal


def test_a_reader_does_not_stop_the_writer(table: Any, store: Store, url: str, tmp_path: Path) -> None:
    table.fill(store)
    raw = sqlite3.connect(tmp_path / "search.db", isolation_level=None)
    raw.execute("BEGIN")
    raw.execute("SELECT COUNT(*) FROM trials").fetchone()
    store.create(4, table.params, 1)
    store.record(4, 1, {"error": 5.0})
    raw.close()


def test_a_locked_database(table: Any, store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table.fill(store)
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(retry, "SECONDS", 0.6)
    raw = sqlite3.connect(tmp_path / "search.db", isolation_level=None, check_same_thread=False)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"database is locked.*another program is writing to it") as error:
        table.open(url)
    table.one_sentence(error)
    # One that is released in time is only waited for.
    timer = threading.Timer(0.3, lambda: raw.execute("COMMIT"))
    timer.start()
    store.record(3, 1, {"error": 5.0})
    timer.join()
    raw.close()


def test_a_file_that_is_no_database(table: Any, tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    path.write_text("not a database, but long enough to look like a file with a header " * 20)
    with pytest.raises(StoreError, match=r"file is not a database.*move it away") as error:
        table.open(sqlite_url(path))
    table.one_sentence(error)
    with pytest.raises(StoreError, match="file is not a database"):
        studies.delete(sqlite_url(path), table.name)


def test_a_database_cut_short(table: Any, store: Store, url: str, tmp_path: Path) -> None:
    table.fill(store)
    store.release()
    path = tmp_path / "search.db"
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(StoreError) as error:
        table.open(url)
    table.one_sentence(error)


def test_a_directory_that_is_not_there(table: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unable to open database file.*its directory exists") as error:
        table.open(sqlite_url(tmp_path / "nowhere" / "search.db"))
    table.one_sentence(error)


@pytest.mark.parametrize("bad", ["", "runs/search.db", "http//x", "sqlite:/x"])
def test_what_is_no_url(table: Any, bad: str) -> None:
    with pytest.raises(UsageError, match="is no storage URL: give one like sqlite:///") as error:
        table.open(bad)
    table.one_sentence(error)


def test_a_driver_that_is_not_there(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"driver that is not installed.*install it") as error:
        table.open("nosuchbase://user:secret@host/name")
    assert "secret" not in table.one_sentence(error)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(StoreError, match=r"driver that is not installed.*install it") as error:
        table.open("postgresql+psycopg2://user:secret@host/name")
    assert "secret" not in table.one_sentence(error)


def test_a_server_that_does_not_answer(table: Any) -> None:
    pytest.importorskip("psycopg2")
    with pytest.raises(StoreError, match=r"cannot be used .*the address is right and the database answers") as error:
        table.open("postgresql+psycopg2://user:secret@127.0.0.1:1/name")
    assert "secret" not in table.one_sentence(error)


@pytest.mark.parametrize("name", ["a b.db", "a%20b.db", "{x}.db", "{SCHEMA_VERSION}.db", "ä#@:.db", "a?b=c.db"])
def test_any_path_has_its_url(table: Any, name: str, tmp_path: Path) -> None:
    with table.open(sqlite_url(tmp_path / name)) as store:
        table.fill(store)
        assert (tmp_path / name).is_file()
    with table.open(sqlite_url(tmp_path / name)) as again:
        assert again.rows() == list(table.rows)
