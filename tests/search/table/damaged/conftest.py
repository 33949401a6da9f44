"""Sound trial tables with all that one can hold, in an SQLite file and in a journal, each made once."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from sound_table import PLAN, opened

from stantune.outcome import Cost, Outcome
from stantune.search.plan.values import FinalResult, SegmentFailure
from stantune.search.table.storages.opening import sqlite_url


def fill(simulated: ModuleType, url: str) -> None:
    """A search with all that a table can hold: results, divergences, failures, metrics, a final training."""
    with opened(simulated, url) as store:
        simulated.search(store, PLAN, simulated.outcome(1))
        number = len(store.rows())
        setting = store.rows()[0].params
        store.create(number, setting, 0, started_from=3)
        store.record_failure(number, SegmentFailure(9, "it broke"), for_good=False)
        store.record(number, 9, {"error": 0.5, "loss": 2.0}, Cost(exact=9))
        outcome = Outcome(9, {"error": 0.5}, None, False, Cost(exact=9))
        store.set_final(0, FinalResult.of(setting, outcome, Cost(exact=9)))


@pytest.fixture(scope="session")
def database(simulated: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file that holds all of the table."""
    file = tmp_path_factory.mktemp("sound") / "search.db"
    fill(simulated, sqlite_url(file))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    return file


@pytest.fixture(scope="session")
def journal(simulated: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sound") / "table.log"
    fill(simulated, f"journal:///{file}")
    return file


@pytest.fixture(autouse=True)
def _nothing_else_is_said() -> Iterator[None]:
    """Optuna's own lines of what it meets would stand before our sentence."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("optuna").addHandler(handler)
    yield
    logging.getLogger("optuna").removeHandler(handler)
    assert not [line for line in said if "Caught" in line]
