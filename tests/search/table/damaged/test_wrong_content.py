"""Tables in which a bit, a cell or an attribute is wrong: whatever it is, one sentence that tells what to do."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sound_table import NAME, at, fresh_copy, use

from stantune.search.directory.directory import SearchDirectory
from stantune.search.table import studies
from stantune.search.table.storages.opening import sqlite_url

# What SQLite keeps of each kind, and what no program of ours or Optuna's writes there.
WRONG_CELLS = [None, "", "x", "{", "[1]", "null", '"x"', "{}", -1, 2**40, 1e308, b"\xff\xfe", "\ud7ff" * 300, "RUNNINH"]


def flipped(simulated: ModuleType, sound: Path, place: Path, count: int) -> Counter[bool]:
    """Flip a bit at each of so many places of a file; return how often that was noticed."""
    rng, content, noticed = random.Random(0), sound.read_bytes(), Counter[bool]()
    url = sqlite_url(place / sound.name) if sound.suffix == ".db" else f"journal:///{place / sound.name}"
    # Most of a database is empty.
    used = [offset for offset, byte in enumerate(content) if byte]
    for offset in sorted(rng.sample(used, min(count, len(used)))):
        file = fresh_copy(sound, place)
        changed = bytearray(content)
        changed[offset] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        try:
            noticed[bool(use(simulated, url))] += 1
        except Exception as error:
            raise AssertionError(f"byte {offset}: {type(error).__name__}: {error}") from error
    return noticed


def test_a_flipped_bit_of_a_database_is_one_sentence(simulated: ModuleType, database: Path, tmp_path: Path) -> None:
    noticed = flipped(simulated, database, tmp_path, 12)
    assert noticed[True] > 0


def test_a_flipped_bit_of_a_journal_is_one_sentence(simulated: ModuleType, journal: Path, tmp_path: Path) -> None:
    noticed = flipped(simulated, journal, tmp_path, 60)
    assert noticed[True] > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["database", "journal"])
def test_a_thousand_flipped_bits(
    kind: str, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    noticed = flipped(simulated, request.getfixturevalue(kind), tmp_path, 1000)
    print(f"{kind}: {noticed[True]} of {noticed.total()} were noticed, each in one sentence")
    assert noticed[True] > 50


def cells(database: Path) -> list[tuple[str, str, int]]:
    """One cell of each column of each table, by its row."""
    found = []
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            row = connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]
            if row is not None:
                found += [(table, column[1], row) for column in connection.execute(f"PRAGMA table_info({table})")]
    return found


def put(connection: sqlite3.Connection, table: str, column: str, row: int, value: Any) -> bool:
    """Put a value into a cell; return whether the database let it in."""
    connection.execute("PRAGMA ignore_check_constraints = ON")
    try:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
    except sqlite3.IntegrityError:
        return False
    return True


def wrong_cells(simulated: ModuleType, database: Path, place: Path, values: list[Any], every: bool) -> Counter[bool]:
    """Put one of these values, or each, into one cell of each column; return how often that was noticed."""
    noticed = Counter[bool]()
    for number, (table, column, row) in enumerate(cells(database)):
        for value in values if every else values[number % len(values) :][:1]:
            file = fresh_copy(database, place)
            with closing(sqlite3.connect(file)) as connection, connection:
                if not put(connection, table, column, row, value):
                    continue
            try:
                noticed[bool(use(simulated, sqlite_url(file)))] += 1
            except Exception as error:
                raise AssertionError(f"{table}.{column} = {value!r}: {type(error).__name__}: {error}") from error
    return noticed


def test_a_wrong_cell_of_the_table_is_one_sentence(simulated: ModuleType, database: Path, tmp_path: Path) -> None:
    noticed = wrong_cells(simulated, database, tmp_path, ["x", b"\xff\xfe"], every=False)
    assert noticed[True] > 15


@pytest.mark.slow
def test_every_wrong_cell_of_the_table(simulated: ModuleType, database: Path, tmp_path: Path) -> None:
    noticed = wrong_cells(simulated, database, tmp_path, WRONG_CELLS, every=True)
    print(f"{noticed[True]} of {noticed.total()} were noticed, each in one sentence")


@pytest.mark.slow
def test_a_study_in_a_shared_storage_is_deleted_whatever_is_wrong_with_it(database: Path, tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    directory = SearchDirectory(tmp_path / "runs", sqlite_url(tmp_path / "table" / database.name))
    for table, column, row in cells(database):
        for value in WRONG_CELLS if table == "study_user_attributes" else []:
            with closing(sqlite3.connect(fresh_copy(database, tmp_path / "table"))) as connection, connection:
                connection.execute("UPDATE studies SET study_name = ?", (directory.study,))
                if not put(connection, table, column, row, value):
                    continue
            with directory.locked():
                assert directory.clear(), f"{column} = {value!r}"
            assert studies.identity_of(directory.url, directory.study) is None


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["database", "journal"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stantune:identity", "x"),
        ("stantune:identity", [1]),
        ("stantune:identity", 5),
        ("stantune:final", "x"),
        ("stantune:final", {"iterations": "x"}),
        ("stantune:final:x", {}),
        ("stantune:start", 5),
    ],
)
def test_a_wrong_attribute_is_one_sentence(
    kind: str, name: str, value: Any, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = fresh_copy(request.getfixturevalue(kind), tmp_path)
    url, storage = at(file)
    storage.set_study_user_attr(storage.get_study_id_from_name(NAME), name, value)
    storage.remove_session()
    assert use(simulated, url) or name == "stantune:start", "it is noticed"


def test_json_without_end_in_a_journal_is_damage(simulated: ModuleType, journal: Path, tmp_path: Path) -> None:
    file = fresh_copy(journal, tmp_path)
    file.write_text(file.read_text() + "[" * 100_000 + "\n")
    assert "is damaged (RecursionError" in use(simulated, f"journal:///{file}")
