"""Cells of a search's SQLite file: one is given another value, of the same kind or any, and the same search goes on."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from finished import FinishedSearch
from fuzz import Make
from values import NUMBERS, text

TABLES = (
    "trials",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_user_attributes",
    "study_user_attributes",
    "studies",
    "study_directions",
    "study_system_attributes",
    "version_info",
    "alembic_version",
)


def prepare(place: Path) -> Make:
    """Have cells changed of a copy of a whole search in `place`."""
    search = FinishedSearch(place, "sqlite:///{file}")

    def make(rng: random.Random) -> tuple[str, Callable[[], str]]:
        with closing(sqlite3.connect(search.fresh())) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            table = rng.choice(TABLES)
            columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
            rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]
            column, row = rng.choice(columns), rng.choice(rows)
            (before,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()
            others = [value for (value,) in connection.execute(f"SELECT {column} FROM {table}")]
            after = changed(before, others, rng)
            if rng.random() < 0.05:
                connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
                after = "nothing: the row is gone"
            else:
                try:
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (after, row))
                except (sqlite3.IntegrityError, OverflowError, UnicodeEncodeError):
                    after = before  # the database itself keeps it out
        legal = legal_in(table, column, before, after)
        return f"{table}.{column} of row {row}: {before!r} -> {after!r}", lambda: search.use(legal)

    return make


def changed(before: Any, others: list[Any], rng: random.Random) -> Any:
    """Return another value for a cell."""
    way = rng.randrange(6)
    if way == 0:
        return rng.choice(others)
    if way == 1:
        return rng.choice((None, 0, 1, -1, 2**31, 2**63 - 1, 0.5, -5.0, 1e308, b"\xff\xfe", b"", float("inf")))
    if way == 2:
        return text(
            rng, "RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", "FINITE", "INF_NEG", "MAXIMIZE", "MINIMIZE"
        )
    if isinstance(before, int | float):
        return rng.choice((before + 1, before - 1, -before, before * 2, before / 2, before + 0.5, str(before)))
    if isinstance(before, str):
        try:
            return json.dumps(changed_json(json.loads(before), rng))
        except ValueError:
            at = rng.randrange(len(before) + 1)
            return before[:at] + rng.choice(("", "x", "²", "\0", "\ud7ff", '"', "{")) + before[at + rng.randrange(3) :]
    return before


def changed_json(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with something in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.15:
            return {key: one for key, one in value.items() if key != name}
        return {**value, name: changed_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], changed_json(value[at], rng), *value[at + rng.randrange(2) :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, -value, value * 2, value / 2, 0, -5, 10**30, 1e308, float("nan")))
    return rng.choice((None, True, 0, -1, 2**40, 0.5, "", "x", [], {}, [1], {"x": 1}, rng.choice(NUMBERS)))


def legal_in(table: str, column: str, before: Any, after: Any) -> bool:
    """Tell whether a search may have written that, so that another result follows from it in all order."""
    if before == after:
        return True
    numbers = isinstance(after, int | float) or (isinstance(after, str) and after.replace(".", "", 1).isdecimal())
    if table == "trial_params":
        return column == "param_value" and numbers
    if table == "trial_intermediate_values":
        return column == "intermediate_value" and numbers and 0 <= float(after) <= 100
    # What an attribute may be is what is tried here: see FinishedSearch.use.
    return table in ("trial_user_attributes", "study_user_attributes") and column == "value_json"
