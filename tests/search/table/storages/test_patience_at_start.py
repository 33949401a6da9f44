"""A database that has no time as a search begins is waited for a minute, as later; a wrong address is told at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy
from optuna.storages import RDBStorage

from stantune.errors import StoreError
from stantune.search.table import studies
from stantune.search.table.storages import opening as storage
from stantune.search.table.storages import retry
from stantune.search.table.storages.opening import connect, release, sqlite_url
from stantune.search.table.store import Store

LOCK = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""
# All that is asked of a database as a search begins.
STEPS = (
    "create_new_study",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_current_version",
    "get_all_trials",
    "get_study_user_attrs",
    "get_study_directions",
    "set_study_user_attr",
)


def opened(simulated: ModuleType, url: str) -> Store:
    return Store.open(url, "patient", simulated.IDENTITY, simulated.SPACE, simulated.METRIC)


@contextmanager
def locked(file: Path, seconds: float) -> Iterator[None]:
    """Another process has the file for so long."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(file), str(seconds)], stdout=subprocess.PIPE, text=True
    ) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == "locked\n"
        yield
        assert held.wait() == 0


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own patience ends before the lock does, so that ours is needed."""
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.05)


def uses(simulated: ModuleType, url: str) -> dict[str, Callable[[], object]]:
    """All that opens a table."""
    return {
        "search": lambda: opened(simulated, url).release(),
        "identity": lambda: studies.identity_of(url, "patient"),
        "table": lambda: studies.table_of(url, "patient"),
        "start": lambda: studies.start_of(url, "patient"),
        "fresh": lambda: studies.delete(url, "patient"),
    }


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("use", uses(sys, ""))
@pytest.mark.parametrize("held", ["a table", "nothing yet"])
def test_a_locked_file_is_waited_for(use: str, held: str, simulated: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    if held == "a table":
        opened(simulated, sqlite_url(file)).release()
        with closing(sqlite3.connect(file)) as connection:
            # A reader of a write-ahead log waits for nobody; of a file without, for whoever writes.
            connection.execute("PRAGMA journal_mode=DELETE")
    began = time.monotonic()
    with locked(file, 1.5):
        uses(simulated, sqlite_url(file))[use]()
    assert time.monotonic() - began > 1


@pytest.mark.slow
def test_a_file_that_is_locked_for_25_seconds(simulated: ModuleType, tmp_path: Path) -> None:
    """With the patience that users have."""
    file = tmp_path / "search.db"
    opened(simulated, sqlite_url(file)).release()
    with locked(file, 25):
        opened(simulated, sqlite_url(file)).release()


@pytest.mark.usefixtures("brief")
def test_a_file_that_stays_locked_is_one_sentence(
    simulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "SECONDS", 1.0)
    file = tmp_path / "search.db"
    opened(simulated, sqlite_url(file)).release()
    with locked(file, 6):
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"locked.*another program is writing to it; end that one"):
            opened(simulated, sqlite_url(file))
        assert 0.5 < time.monotonic() - began < 5


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], list[str]]:
    """Has something happen right before a step is done for the first time; returns the list of steps that were."""

    def disturb(step: str, happens: Callable[[], None]) -> list[str]:
        done: list[str] = []
        real = getattr(RDBStorage, step)

        def first(*arguments: Any, **options: Any) -> Any:
            if not done:
                done.append(step)
                happens()
            return real(*arguments, **options)

        monkeypatch.setattr(RDBStorage, step, first)
        return done

    return disturb


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("step", STEPS)
def test_connections_that_are_ended_at_any_step(
    step: str, simulated: ModuleType, postgresql: Any, disturbed: Any
) -> None:
    url = postgresql.url

    def end_all() -> None:
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        engine.dispose()

    studies.delete(url, "patient")
    if step in ("get_study_id_from_name", "get_study_name_from_id"):
        opened(simulated, url).release()  # it is there, and has to be found
    done = disturbed(step, end_all)
    with opened(simulated, url) as store:
        store.create(0, {"lr": 0.1, "momentum": 0.5, "hidden": 200, "pool": "max"}, 2)
    assert done == [step]
    table = studies.table_of(url, "patient")
    assert table is not None
    assert (table[0]["seed"], len(table[1])) == (0, 1)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("step", ["create_new_study", "set_study_user_attr"])
def test_a_server_that_is_started_anew(step: str, simulated: ModuleType, postgresql: Any, disturbed: Any) -> None:
    timers = []

    def stop() -> None:
        postgresql.stop()
        timers.append(threading.Timer(1.0, postgresql.start))
        timers[0].start()

    studies.delete(postgresql.url, "patient")
    disturbed(step, stop)
    began = time.monotonic()
    opened(simulated, postgresql.url).release()
    timers[0].join()
    assert time.monotonic() - began > 1
    assert studies.identity_of(postgresql.url, "patient") is not None


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    "said", ["FATAL:  the database system is starting up", "FATAL:  sorry, too many clients already"]
)
def test_a_server_that_has_no_time_is_waited_for(
    said: str, simulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, begin = 0, RDBStorage.__init__

    def busy(self: RDBStorage, *arguments: Any, **options: Any) -> None:
        nonlocal asked
        asked += 1
        if asked < 4:
            raise sqlalchemy.exc.OperationalError("connect", None, Exception(said))
        begin(self, *arguments, **options)

    monkeypatch.setattr(RDBStorage, "__init__", busy)
    opened(simulated, sqlite_url(tmp_path / "search.db")).release()
    assert asked == 4


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg2://u@127.0.0.1:1/db", "address is right and the database answers"),
        ("postgresql+psycopg2://u@/db?host=/nowhere", "No such file or directory"),
        ("sqlite:////nowhere/at/all/search.db", "see that its directory exists"),
        ("sqlite:///file:/nowhere/search.db?mode=ro&uri=true", "see that its directory exists"),
        ("journal:////nowhere/at/all/table.log", "see that its directory exists"),
    ],
)
def test_what_may_be_a_wrong_address_is_told_at_once(url: str, said: str, simulated: ModuleType) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=said):
        opened(simulated, url)
    assert time.monotonic() - began < 10


def test_a_table_that_may_not_be_written_to_is_told_at_once(simulated: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE x (y)")
    began = time.monotonic()
    with pytest.raises(StoreError, match="see that the file and its directory may be written to"):
        opened(simulated, f"sqlite:///file:{file}?mode=ro&uri=true")
    assert time.monotonic() - began < 10


def test_searches_that_begin_at_once_in_a_new_database_make_it_together(tmp_path: Path) -> None:
    """Optuna looks which tables are there, and makes those that are not."""
    url, together = sqlite_url(tmp_path / "search.db"), threading.Barrier(4)

    def opened(_: int) -> int:
        together.wait()
        storage, _where = connect(url)
        try:
            return len(storage.get_all_studies())
        finally:
            release(storage)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(opened, range(4))) == [0] * 4
