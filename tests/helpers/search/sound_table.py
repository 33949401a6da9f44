"""A sound trial table, copied to be damaged, and all that is ever done with one; what another program uses it by."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

from stantune.errors import StoreError, UsageError
from stantune.outcome import Cost, Outcome
from stantune.search.plan.hyperband import plan
from stantune.search.plan.values import FinalResult
from stantune.search.table import studies
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store

PLAN = plan(9, 1, 3)
NAME = "search"


def opened(simulated: ModuleType, url: str, **others: Any) -> Store:
    """Return the table of the simulated search."""
    return Store.open(url, NAME, simulated.IDENTITY, simulated.SPACE, simulated.METRIC, **others)


def use(simulated: ModuleType, url: str) -> str:
    """Do with a table all that is ever done; return "" if all went well, else what was said."""

    def go_on() -> None:
        with opened(simulated, url, begun=True) as store:
            rows = store.rows()
            store.finals()
            store.create(len(rows), rows[0].params, 0)
            store.record(len(rows), 9, {"error": 0.25}, Cost(exact=9))
            store.close({len(rows): "finished"})
            store.set_final(1, FinalResult.of(rows[0].params, Outcome(9, {}, 5, False, Cost()), Cost()))

    said = ""
    uses: list[Callable[[], object]] = [
        lambda: studies.identity_of(url, NAME),
        lambda: studies.table_of(url, NAME),
        lambda: studies.start_of(url, NAME),
        go_on,
        lambda: studies.delete(url, NAME),
    ]
    for each in uses:
        try:
            each()
        except (StoreError, UsageError) as error:
            said = str(error)
            assert said.isprintable(), said
            assert len(said) < 700, said
            assert "the address is right" not in said, said
    return said


def fresh_copy(sound: Path, place: Path) -> Path:
    """Put a copy in the place of all that is there."""
    for old in place.iterdir():
        old.unlink()
    return Path(shutil.copy(sound, place / sound.name))


def at(file: Path) -> tuple[str, optuna.storages.BaseStorage]:
    """The URL of a file, and what another program uses it by."""
    if file.suffix == ".db":
        return sqlite_url(file), optuna.storages.RDBStorage(sqlite_url(file))
    return f"journal:///{file}", optuna.storages.JournalStorage(JournalFileBackend(str(file)))
