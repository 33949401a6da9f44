"""Tables in which something is wrong, or that are gone: whatever it is, one sentence that tells what to do."""

from __future__ import annotations

import json
import logging
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from stantune.errors import StoreError, UsageError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Metric
from stantune.search.plan.hyperband import plan
from stantune.search.plan.values import FinalResult
from stantune.search.table import studies
from stantune.search.table.directory import SearchDirectory
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store

PLAN = plan(9, 1, 3)
NAME = "search"
# What SQLite keeps of each kind, and what no program of ours or Optuna's writes there.
WRONG_CELLS = [None, "", "x", "{", "[1]", "null", '"x"', "{}", -1, 2**40, 1e308, b"\xff\xfe", "\ud7ff" * 300, "RUNNINH"]


def opened(simulated: ModuleType, url: str, **others: Any) -> Store:
    return Store.open(url, NAME, simulated.IDENTITY, simulated.SPACE, simulated.METRIC, **others)


def fill(simulated: ModuleType, url: str) -> None:
    """A search with all that a table can hold: results, divergences, failures, metrics, a final training."""
    with opened(simulated, url) as store:
        simulated.search(store, PLAN, simulated.outcome(1))
        number = len(store.rows())
        setting = store.rows()[0].params
        store.create(number, setting, 0, started_from=3)
        store.record_failure(number, 9, "it broke", for_good=False)
        store.record(number, 9, {"error": 0.5, "loss": 2.0}, Cost(exact=9))
        outcome = Outcome(9, {"error": 0.5}, None, False, Cost(exact=9))
        store.set_final(0, FinalResult.of(setting, outcome, Cost(exact=9)))


@pytest.fixture(scope="module")
def database(simulated: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file that holds all of the table."""
    file = tmp_path_factory.mktemp("sound") / "search.db"
    fill(simulated, sqlite_url(file))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    return file


@pytest.fixture(scope="module")
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
    for old in place.iterdir():
        old.unlink()
    return Path(shutil.copy(sound, place / sound.name))


def flipped(simulated: ModuleType, sound: Path, place: Path, count: int) -> Counter[bool]:
    """Flip a bit at each of so many places of a file; return how often that was noticed."""
    rng, content, noticed = random.Random(0), sound.read_bytes(), Counter[bool]()
    url = sqlite_url(place / sound.name) if sound.suffix == ".db" else f"journal:///{place / sound.name}"
    # Most of a database is empty.
    used = [at for at, byte in enumerate(content) if byte]
    for at in sorted(rng.sample(used, min(count, len(used)))):
        file = fresh_copy(sound, place)
        changed = bytearray(content)
        changed[at] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        try:
            noticed[bool(use(simulated, url))] += 1
        except Exception as error:
            raise AssertionError(f"byte {at}: {type(error).__name__}: {error}") from error
    return noticed


def test_a_flipped_bit_of_a_database_is_one_sentence(simulated: ModuleType, database: Path, tmp_path: Path) -> None:
    noticed = flipped(simulated, database, tmp_path, 25)
    assert noticed[True] > 1


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


def wrong_cells(simulated: ModuleType, database: Path, place: Path, values: list[Any], every: bool) -> Counter[bool]:
    """Put one of these values, or each, into one cell of each column; return how often that was noticed."""
    noticed = Counter[bool]()
    for number, (table, column, row) in enumerate(cells(database)):
        for value in values if every else values[number % len(values) :][:1]:
            file = fresh_copy(database, place)
            with closing(sqlite3.connect(file)) as connection, connection:
                connection.execute("PRAGMA ignore_check_constraints = ON")
                try:
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
                except sqlite3.IntegrityError:
                    continue  # the database itself keeps it out
            try:
                noticed[bool(use(simulated, sqlite_url(file)))] += 1
            except Exception as error:
                raise AssertionError(f"{table}.{column} = {value!r}: {type(error).__name__}: {error}") from error
    return noticed


def test_a_wrong_cell_of_the_table_is_one_sentence(simulated: ModuleType, database: Path, tmp_path: Path) -> None:
    noticed = wrong_cells(simulated, database, tmp_path, ["x", b"\xff\xfe", "", "{"], every=False)
    assert noticed[True] > 15


@pytest.mark.slow
def test_every_wrong_cell_of_the_table(simulated: ModuleType, database: Path, tmp_path: Path) -> None:
    noticed = wrong_cells(simulated, database, tmp_path, WRONG_CELLS, every=True)
    print(f"{noticed[True]} of {noticed.total()} were noticed, each in one sentence")


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


def trial_of(simulated: ModuleType, kind: str) -> int:
    """The number of the first trial that got into a second rung, that diverged, or that was dropped in its first."""
    of = simulated.outcome(1)
    with_errors = [number for number in range(9) if of(number, 1) is not None]
    promoted = sorted(with_errors, key=lambda number: (of(number, 1), number))[:3]
    return next(
        number
        for number in range(9)
        if {"promoted": number in promoted, "diverged": of(number, 1) is None, "dropped": True}[kind]
        and not (kind == "dropped" and (number in promoted or number not in with_errors))
    )


COSTS = {"exact": 1, "exact_seconds": 0.25}
# Of which trial (None: the study), which attribute or intermediate value, another one in its place, and what is said.
IMPOSSIBLE: list[tuple[str | None, str | int, Any, str]] = [
    ("dropped", 1, -5.0, "the intermediate value of trial {} after 1 is -5, and the error is from 0 to 100"),
    ("dropped", 1, 101.0, "the intermediate value of trial {} after 1 is 101"),
    ("dropped", 1, float("inf"), "the intermediate value of trial {} after 1 is inf, and it is a finite number"),
    ("dropped", 2, 0.0, "trial {} has intermediate values after 1, 2, and its rungs end at 1, 3, 9"),
    ("dropped", 9, 0.0, "trial {} has intermediate values after 1, 9, and its rungs end at 1, 3, 9"),
    ("dropped", -1, 0.0, "trial {} has intermediate values after -1, 1, and its rungs end at 1, 3, 9"),
    ("dropped", "stantune:bracket", 7, "stantune:bracket of trial {} is 7, and it begins in bracket 2"),
    ("dropped", "stantune:bracket", 1, "stantune:bracket of trial {} is 1, and it begins in bracket 2"),
    ("dropped", "stantune:bracket", "2", "stantune:bracket of trial {} is '2', and it is a whole number"),
    ("dropped", "stantune:end", "won", "its trial {} was ended by another program"),
    ("dropped", "stantune:end", "finished", "its trial {} was ended by another program"),
    ("dropped", "stantune:cost:1", {**COSTS, "exact": -1}, "stantune:cost:1 of trial {} has -1 as its exact"),
    ("dropped", "stantune:cost:1", {**COSTS, "exact_seconds": None}, "has None as its exact_seconds"),
    ("dropped", "stantune:cost:2", COSTS, "trial {} has an attribute stantune:cost:2, and no rung"),
    ("dropped", "stantune:cost:²", COSTS, "trial {} has an attribute stantune:cost:²"),
    ("dropped", "stantune:metrics:1", {"error": 7.0}, "stantune:metrics:1 of trial {} has not the intermediate value"),
    ("dropped", "stantune:metrics:1", {"error": "low"}, "stantune:metrics:1 of trial {} has 'low' as its error"),
    ("dropped", "stantune:diverged_at", 4, "stantune:diverged_at of trial {} is 4, and it is a whole number"),
    ("dropped", "stantune:failed", "why not", "stantune:failed of trial {} is 'why not', and its failures are 0"),
    ("dropped", "stantune:failures", [[1, 2]], "stantune:failures of trial {} have [1, 2] among them"),
    ("dropped", "stantune:started_from", "x", "stantune:started_from of trial {} is 'x'"),
    ("dropped", "stantune:taken_over_from:1", 99, "stantune:taken_over_from:1 of trial {} is 99, which is no earlier"),
    ("diverged", "stantune:diverged_at", -1, "stantune:diverged_at of trial {} is -1, and it is a whole number"),
    ("diverged", "stantune:diverged_at", 1.5, "stantune:diverged_at of trial {} is 1.5, and it is a whole number"),
    (None, "stantune:final", {"error": -1.0}, "the metrics in stantune:final is -1, and the error is from 0 to 100"),
    (None, "stantune:final", {"loss": 1.0}, "stantune:final has no error, and says that the training did not diverge"),
    (None, "stantune:final\x07", {"error": 1.0}, "an attribute stantune:final\\x07, and a finalist's rank is a number"),
    (None, "stantune:final:²", {"error": 1.0}, "an attribute stantune:final:², and a finalist's rank is a number"),
]


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_a_value_that_no_search_writes_is_not_believed(
    kind: str, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for whose, name, value, said in IMPOSSIBLE:
        file = fresh_copy(request.getfixturevalue(kind), tmp_path)
        url, storage = at(file)
        study, number = storage.get_study_id_from_name(NAME), None
        if whose is None:
            kept = storage.get_study_user_attrs(study)["stantune:final"]
            storage.set_study_user_attr(study, str(name), {**kept, "metrics": value})
        else:
            number = trial_of(simulated, whose)
            write(storage, study, number, name, value)
        storage.remove_session()
        with pytest.raises(StoreError) as caught:
            look(simulated, url)
        sentence = str(caught.value)
        assert said.format(number) in sentence
        assert f"the study '{NAME}' in" in sentence
        assert "begin" in sentence
        assert sentence.isprintable()


def write(storage: Any, study: int, number: int, name: str | int, value: Any) -> None:
    """Write into a trial that has ended, which no storage lets anybody do by its own methods."""
    trial = storage.get_all_trials(study)[number]
    if isinstance(storage, optuna.storages.RDBStorage):
        with closing(sqlite3.connect(storage.engine.url.database)) as connection, connection:
            if isinstance(name, int):
                connection.execute(
                    "REPLACE INTO trial_intermediate_values (trial_id, step, intermediate_value, "
                    "intermediate_value_type) VALUES (?, ?, ?, ?)",
                    (trial._trial_id, name, *((None, "INF_POS") if value == float("inf") else (value, "FINITE"))),
                )
            else:
                where = "WHERE trial_id = ? AND key = ?"
                connection.execute(f"DELETE FROM trial_user_attributes {where}", (trial._trial_id, name))
                connection.execute(
                    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                    (trial._trial_id, name, json.dumps(value)),
                )
        return
    # Beside the line of one that was written while it ran.
    of_values = isinstance(name, int)
    file = Path(storage._backend._file_path)
    lines = file.read_text().splitlines()
    like = [json.loads(line) for line in lines]
    ours = [line for line in like if line.get("trial_id") == trial._trial_id]
    there = [line for line in ours if ("step" in line) if of_values] or [line for line in ours if "user_attr" in line]
    changed = {
        **there[0],
        **({"step": name, "intermediate_value": value} if of_values else {"user_attr": {name: value}}),
    }
    place = max(at for at, line in enumerate(like) if line.get("trial_id") == trial._trial_id and "state" not in line)
    lines.insert(place + 1, json.dumps(changed))
    file.write_text("".join(f"{line}\n" for line in lines))


def look(simulated: ModuleType, url: str) -> None:
    """Open a table and read all that is in it."""
    metric = Metric("error", bounds=(0, 100))
    with Store.open(url, NAME, simulated.IDENTITY, simulated.SPACE, metric, begun=True, plan=PLAN) as store:
        store.finals()


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_what_a_search_writes_is_believed(
    kind: str, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = fresh_copy(request.getfixturevalue(kind), tmp_path)
    look(simulated, at(file)[0])


def at(file: Path) -> tuple[str, optuna.storages.BaseStorage]:
    """The URL of a file, and what another program uses it by."""
    if file.suffix == ".db":
        return sqlite_url(file), optuna.storages.RDBStorage(sqlite_url(file))
    return f"journal:///{file}", optuna.storages.JournalStorage(JournalFileBackend(str(file)))


def rename(file: Path) -> None:
    _, storage = at(file)
    study = storage.get_study_id_from_name(NAME)
    if file.suffix == ".db":
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE studies SET study_name = 'other' WHERE study_id = ?", (study,))
    else:
        file.write_text(file.read_text().replace(f'"{NAME}"', '"other"'))


def delete(file: Path) -> None:
    _, storage = at(file)
    storage.delete_study(storage.get_study_id_from_name(NAME))


def delete_and_make(file: Path) -> None:
    delete(file)
    _, storage = at(file)
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], NAME)


def take_away(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("kind", ["database", "journal"])
@pytest.mark.parametrize("gone", [rename, delete, delete_and_make, take_away])
def test_a_search_whose_study_is_gone_says_so(
    kind: str, gone: Callable[[Path], None], simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = fresh_copy(request.getfixturevalue(kind), tmp_path)
    url = sqlite_url(file) if kind == "database" else f"journal:///{file}"
    gone(file)
    said = "was not made by a stantune search" if gone is delete_and_make else "trial table of this search is gone"
    for _ in range(2):  # no other study is made in its place
        with pytest.raises(StoreError, match=said) as caught:
            opened(simulated, url, begun=True)
        assert "begin anew with `fresh`" in str(caught.value) or "begin it anew with `fresh`" in str(caught.value)


def test_a_search_s_directory_knows_whether_its_search_was_begun(simulated: ModuleType, tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        assert not directory.was_begun()
        directory.note_storage()
        assert directory.was_begun()
        with pytest.raises(StoreError, match="trial table of this search is gone"):
            opened(simulated, directory.url, begun=directory.was_begun())
        directory.clear()
        opened(simulated, directory.url, begun=directory.was_begun()).release()


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_a_study_that_is_deleted_while_its_search_runs(
    kind: str, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = fresh_copy(request.getfixturevalue(kind), tmp_path)
    url, _ = at(file)
    with opened(simulated, url) as store:
        rows = store.rows()
        number = len(rows)
        store.create(number, rows[0].params, 0)
        delete(file)
        final = FinalResult.of(rows[0].params, Outcome(9, {}, 5, False, Cost()), Cost())
        uses: list[Callable[[], object]] = [
            lambda: store.record(number, 9, {"error": 0.25}),
            lambda: store.close({number: "finished"}),
            lambda: store.create(number + 1, rows[0].params, 0),
            lambda: store.set_final(0, final),
            store.finals,
        ]
        # Optuna's journal still knows the trials of a study that is gone: it is noticed where the next one begins.
        for each in uses[2 if kind == "journal" else 0 :]:
            with pytest.raises(StoreError, match=f"the study '{NAME}' in .* cannot go on because .* gone") as caught:
                each()
            assert "begin it anew with `fresh`" in str(caught.value)


def test_json_without_end_in_a_journal_is_damage(simulated: ModuleType, journal: Path, tmp_path: Path) -> None:
    file = fresh_copy(journal, tmp_path)
    file.write_text(file.read_text() + "[" * 100_000 + "\n")
    assert "is damaged (RecursionError" in use(simulated, f"journal:///{file}")
