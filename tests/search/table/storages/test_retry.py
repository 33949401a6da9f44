"""A database that is locked or gone for a while, for real: the search waits, loses nothing, and ends as undisturbed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy

from stantune.errors import StoreError
from stantune.outcome import Cost
from stantune.search.plan.hyperband import plan
from stantune.search.table.storages import opening as storage
from stantune.search.table.storages import retry
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store

PLAN = plan(27, 3, 3)
LOCK = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    # SQLite's own patience ends before the lock does, so that ours is needed.
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.05)


def opened(simulated: ModuleType, url: str) -> Store:
    return Store.open(url, "patient", simulated.IDENTITY, simulated.SPACE, simulated.METRIC)


def disturbed(simulated: ModuleType, url: str, disturb: Callable[[], None]) -> Store:
    """Run the simulated search, and after its twentieth outcome disturb it."""
    outcome, asked = simulated.outcome(1), 0

    def of(number: int, stop: int) -> float | None:
        nonlocal asked
        asked += 1
        if asked == 20:
            disturb()
        return outcome(number, stop)

    store = opened(simulated, url)
    simulated.search(store, PLAN, of)
    return store


@pytest.fixture
def expected(simulated: ModuleType, tmp_path: Path) -> object:
    """What the table is in the end, in a database that nothing happens to."""
    with disturbed(simulated, sqlite_url(tmp_path / "undisturbed.db"), lambda: None) as store:
        return store.rows(), store.finals()


def test_locked_by_another_process(simulated: ModuleType, tmp_path: Path, expected: object) -> None:
    file = tmp_path / "search.db"
    held: list[subprocess.Popen[str]] = []

    def lock() -> None:
        held.append(subprocess.Popen([sys.executable, "-c", LOCK, str(file), "2.5"], stdout=subprocess.PIPE, text=True))
        assert held[0].stdout is not None
        assert held[0].stdout.readline() == "locked\n"

    began = time.monotonic()
    with disturbed(simulated, sqlite_url(file), lock) as store:
        assert (store.rows(), store.finals()) == expected
    assert held[0].wait() == 0
    assert time.monotonic() - began > 2.5
    with opened(simulated, sqlite_url(file)) as store:
        assert (store.rows(), store.finals()) == expected


def test_gone_for_a_while(simulated: ModuleType, tmp_path: Path, expected: object) -> None:
    file, away = tmp_path / "search.db", tmp_path / "away"
    timers, in_its_place = [], []
    with opened(simulated, sqlite_url(file)) as store:
        # As after a share that went away: what was connected is so no longer, and the file cannot be found.
        def take_away() -> None:
            away.mkdir()
            engine.dispose()
            for part in tmp_path.glob("search.db*"):
                part.rename(away / part.name)
            timers.append(threading.Timer(1.0, bring_back))
            timers[0].start()

        def bring_back() -> None:
            in_its_place.append(file.exists())
            for part in away.iterdir():
                part.rename(tmp_path / part.name)

        engine = store._storage.engine  # type: ignore[attr-defined]
        outcome, asked = simulated.outcome(1), 0

        def of(number: int, stop: int) -> float | None:
            nonlocal asked
            asked += 1
            if asked == 20:
                take_away()
            return outcome(number, stop)

        simulated.search(store, PLAN, of)
        timers[0].join()
        assert in_its_place == [False], "no empty database was made meanwhile"
        assert (store.rows(), store.finals()) == expected


def test_an_answer_that_took_long_to_fail_is_waited_for_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    # A connection that a firewall has dropped: the write blocks until TCP gives up, and another connection would do.
    now, asked = 1000.0, list[bool]()

    def ask(again: bool) -> str:
        nonlocal now
        asked.append(again)
        if len(asked) < 3:
            now += 100 if not again else 1
            raise sqlalchemy.exc.OperationalError("UPDATE", {}, Exception("server closed the connection"))
        return "done"

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    assert retry.insist(None, ask) == "done"
    assert asked == [False, True, True]
    asked.clear()
    monkeypatch.setattr(retry, "SECONDS", 0.9)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        retry.insist(None, ask)
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("postgresql+psycopg2://u@h/d", {"connect_timeout": 1, "keepalives_idle": 60, "tcp_user_timeout": 60_000}),
        ("postgresql+psycopg2://u@h/d?connect_timeout=3&keepalives_idle=9", {"tcp_user_timeout": 60_000}),
        ("mysql+pymysql://u@h/d", {"connect_timeout": 1}),
    ],
)
def test_a_connection_is_kept_alive(url: str, given: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(storage, "_database", lambda url, options: asked.append(options["connect_args"]))
    storage.connect(url)
    assert asked == [given]


def test_gone_for_good(simulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "SECONDS", 0.4)
    file = tmp_path / "search.db"
    with opened(simulated, sqlite_url(file)) as store:
        store._storage.engine.dispose()  # type: ignore[attr-defined]
        for part in tmp_path.glob("search.db*"):
            part.unlink()
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"unable to open.*see that its directory exists"):
            store.create(0, {"lr": 0.1, "momentum": 0.5, "hidden": 200, "pool": "max"}, 2)
        assert 0.3 < time.monotonic() - began < 5
        assert not file.exists()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("lost", range(1, 45, 5))
def test_answers_lost_after_the_write(
    simulated: ModuleType, tmp_path: Path, expected: object, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The transaction is committed, and the connection breaks before that is heard: nothing is done twice."""
    commits = 0
    commit = sqlalchemy.engine.default.DefaultDialect.do_commit

    def cut(dialect: object, connection: object) -> None:
        nonlocal commits
        commit(dialect, connection)  # type: ignore[arg-type]
        commits += 1
        if commits == lost:
            raise sqlite3.OperationalError("the connection was closed unexpectedly")

    store = opened(simulated, sqlite_url(tmp_path / "search.db"))
    monkeypatch.setattr(sqlalchemy.engine.default.DefaultDialect, "do_commit", cut)
    with store:
        simulated.search(store, PLAN, simulated.outcome(1))
        assert commits > lost
        assert (store.rows(), store.finals()) == expected
    with opened(simulated, sqlite_url(tmp_path / "search.db")) as store:
        assert (store.rows(), store.finals()) == expected


@contextmanager
def answers_lost(store: Store, what: str) -> Iterator[None]:
    """Have writes of one kind be done, and their answers be lost."""
    tables = store._tables._tables  # type: ignore[attr-defined]
    usual = getattr(tables, what)

    def lost(*given: Any) -> None:
        usual(*given)
        raise sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("gone away"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, what, lost)
        yield


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@pytest.mark.parametrize("what", ["create", "record", "close"])
def test_what_was_given_up_may_be_asked_for_again(
    simulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    """Also where it was written and the answer alone was lost: nothing is done twice."""
    monkeypatch.setattr(retry, "SECONDS", 0.0)
    url = sqlite_url(tmp_path / "search.db") if kind == "sqlite" else f"journal:///{tmp_path}/search.log"
    setting = {"lr": 0.1, "momentum": 0.5, "hidden": 200, "pool": "max"}
    cost = Cost(exact=1, exact_seconds=1.0)
    with opened(simulated, url) as store:
        calls: dict[str, Callable[[], None]] = {
            "create": lambda: store.create(0, setting, 2),
            "record": lambda: store.record(0, 3, {simulated.METRIC.name: 0.5}, cost),
            "close": lambda: store.close({0: "dropped"}),
        }
        for name, call in calls.items():
            if name == what:
                with answers_lost(store, what), pytest.raises(StoreError):
                    call()
            call()
        found = store.rows()
    assert len(found) == 1
    with opened(simulated, url) as store:
        assert store.rows() == found


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@pytest.mark.parametrize("what", ["create", "close"])
def test_what_was_given_up_is_asked_for_again_after_another_write(
    simulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    """That a write succeeds says nothing of an earlier one whose answer was lost."""
    monkeypatch.setattr(retry, "SECONDS", 0.0)
    url = sqlite_url(tmp_path / "search.db") if kind == "sqlite" else f"journal:///{tmp_path}/search.log"
    setting = {"lr": 0.1, "momentum": 0.5, "hidden": 200, "pool": "max"}
    with opened(simulated, url) as store:
        for number in range(3):
            store.create(number, setting, 2)

        def call(*more: int) -> None:
            store.create(3, setting, 2) if what == "create" else store.close(dict.fromkeys((0, *more), "dropped"))

        with answers_lost(store, what), pytest.raises(StoreError):
            call()
        store.record(1, 3, {simulated.METRIC.name: 0.5})
        store.close({2: "dropped"}) if what == "create" else store.create(3, setting, 2)
        call(1)
        found = store.rows()
    assert len(found) == 4
    with opened(simulated, url) as store:
        assert store.rows() == found


def test_server_away_for_a_while(simulated: ModuleType, expected: object, postgresql: Any) -> None:
    timers = []

    def stop() -> None:
        postgresql.stop()
        timers.append(threading.Timer(1.0, postgresql.start))
        timers[0].start()

    with disturbed(simulated, postgresql.url, stop) as store:
        timers[0].join()
        assert (store.rows(), store.finals()) == expected
    with opened(simulated, postgresql.url) as store:
        assert (store.rows(), store.finals()) == expected
