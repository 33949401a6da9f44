"""The trial table: what comes back, what Optuna sees of it, and what is refused in one sentence."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from stantune.errors import StoreError, UsageError
from stantune.search import storage
from stantune.search.coordinator import TakeOver
from stantune.search.hyperband import plan
from stantune.search.rows import TrialRow
from stantune.search.storage import sqlite_url
from stantune.search.store import Store
from stantune.search.warm_start import PastTrial, WarmStart
from stantune.space import Categorical, Float, Integer, Space

SPACE = Space({"lr": Float(5e-5, 5, log=True), "n": Integer(1, 9), "pool": Categorical(("max", None))})
PARAMS = {"lr": 0.1 + 0.2, "n": 7, "pool": None}
NAME = "lenet"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "search.db")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, NAME, {"seed": 0}, SPACE) as opened:
        yield opened


def reopened(url: str, identity: Any = None, space: Space = SPACE) -> Store:
    return Store.open(url, NAME, identity or {"seed": 0}, space)


def one_sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def fill(store: Store) -> None:
    for number in range(4):
        store.create(number, PARAMS, 2)
    store.record(0, 1, 50.0, {"training": 1.5, "exact": 1})
    store.record(1, 1, 40.0, {"training": 0.5, "note": "slow", "flag": True})
    store.record_divergence(2, 1, 1, {"training": 0.25})
    store.record(1, 3, 1 / 3)
    store.close({0: "dropped", 2: "diverged", 1: "finished"})


# All have the same setting, so that each names the first of them.
ROWS = [
    TrialRow(0, 2, PARAMS, {1: 50.0}, None, {1: {"training": 1.5, "exact": 1}}),
    TrialRow(
        1,
        2,
        PARAMS,
        {1: 40.0, 3: 1 / 3},
        None,
        {1: {"training": 0.5, "note": "slow", "flag": True}, 3: {}},
        equals=(0,),
    ),
    TrialRow(2, 2, PARAMS, {}, 1, {1: {"training": 0.25}}, equals=(0,)),
    TrialRow(3, 2, PARAMS, equals=(0,)),
]


def test_rows_come_back_bit_for_bit(store: Store, url: str) -> None:
    fill(store)
    assert store.rows() == ROWS
    with reopened(url) as again:
        assert again.rows() == ROWS


def test_what_optuna_sees(store: Store, url: str) -> None:
    fill(store)
    study = optuna.load_study(study_name=NAME, storage=url)
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    trials = study.trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [trial.state for trial in trials] == [
        TrialState.PRUNED,
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.RUNNING,
    ]
    assert [trial.value for trial in trials] == [50.0, 1 / 3, None, None]
    assert trials[1].intermediate_values == {1: 40.0, 3: 1 / 3}
    assert trials[1].params == PARAMS
    assert trials[1].distributions["lr"] == optuna.distributions.FloatDistribution(5e-5, 5, log=True)
    assert trials[2].user_attrs["stantune:diverged_at"] == 1
    assert [trial.user_attrs.get("stantune:end") for trial in trials] == ["dropped", "finished", "diverged", None]
    for trial in trials[:3]:
        assert trial.duration is not None
        assert 0 <= trial.duration.total_seconds() < 60
    assert study.best_trial.number == 1


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process cannot be set here")
def test_times_are_local_whatever_optuna_keeps(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with reopened(url) as store:
            fill(store)
        trial = optuna.load_study(study_name=NAME, storage=url).trials[0]
        for at in (trial.datetime_start, trial.datetime_complete):
            assert at is not None
            assert abs((at - datetime.now()).total_seconds()) < 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_both_ways_to_write_leave_the_same(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(at: str) -> list[Any]:
        return [
            (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.intermediate_values)
            for t in optuna.load_study(study_name=NAME, storage=at).trials
        ]

    with reopened(url) as by_sql:
        fill(by_sql)
        assert type(by_sql._tables._tables).__name__ == "SqlTables"  # type: ignore[attr-defined]
    monkeypatch.setattr("stantune.search.tables._KNOWN_LAYOUT", "v9.9.9.a")
    other = sqlite_url(tmp_path / "other.db")
    with reopened(other) as by_api:
        fill(by_api)
        assert type(by_api._tables._tables).__name__ == "ApiTables"  # type: ignore[attr-defined]
    assert seen(url) == seen(other)
    assert Store.delete(other, NAME)
    with reopened(other) as emptied:
        assert emptied.rows() == []


def test_recording_the_same_again_replaces_it(store: Store, url: str) -> None:
    store.create(0, PARAMS, 2)
    store.record(0, 1, 50.0, {"training": 1.0})
    store.record(0, 1, 50.0, {"training": 2.0})
    store.close({0: "dropped"})
    store.close({0: "dropped"})
    with reopened(url) as again:
        assert again.rows() == store.rows() == [TrialRow(0, 2, PARAMS, {1: 50.0}, None, {1: {"training": 2.0}})]


def test_final(store: Store, url: str) -> None:
    assert store.final() is None
    store.set_final({"test_error": 1.0})
    store.set_final({"test_error": 0.9, "params": PARAMS})
    with reopened(url) as again:
        assert again.final() == {"test_error": 0.9, "params": PARAMS}


def test_two_studies_in_one_database(store: Store, url: str) -> None:
    fill(store)
    with Store.open(url, "other", {"seed": 1}, SPACE) as other:
        other.create(0, PARAMS, 0)
        store.create(4, PARAMS, 1)
        other.create(1, PARAMS, 0)
        assert len(other.rows()) == 2


def test_delete(store: Store, url: str, tmp_path: Path) -> None:
    fill(store)
    store.set_final({})
    store.release()
    with Store.open(url, "other", {}, SPACE) as other:
        fill(other)
    assert Store.delete(url, NAME)
    assert not Store.delete(url, NAME)
    with Store.open(url, "other", {}, SPACE) as other:
        assert other.rows() == ROWS
    assert Store.delete(url, "other")
    with closing(sqlite3.connect(tmp_path / "search.db")) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        left = {name: raw.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in tables}
    assert {name for name, rows in left.items() if rows} <= {"version_info", "alembic_version"}
    with reopened(url, {"seed": 5}) as anew:
        assert anew.rows() == []
        assert anew.final() is None


def test_another_identity_is_refused_by_its_differences(store: Store, url: str) -> None:
    space = Space({**SPACE, "lr": Float(5e-5, 1, log=True)})
    with pytest.raises(UsageError) as error:
        reopened(url, {"seed": 1, "eta": 3}, space)
    message = one_sentence(error)
    assert "(eta: nothing there, 3 here; seed: 0 there, 1 here; space.lr.high: 5 there, 1 here)" in message
    assert "--fresh" in message


def test_identity_may_be_of_any_plain_values(url: str) -> None:
    identity = {"a": (1, 2), "b": {"c": None}, "rate": 0.1}
    reopened(url, identity).release()
    with reopened(url, identity) as again:
        assert again.rows() == []
    with pytest.raises(UsageError, match=r"\(b\.c: None there, 0 here\)"):
        reopened(url, {**identity, "b": {"c": 0}})


def test_a_study_cut_before_its_identity_is_taken_up(url: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name=NAME, storage=url)
    with reopened(url) as store:
        fill(store)
    with reopened(url) as again:
        assert again.rows() == ROWS


def test_a_study_of_another_kind_is_refused(url: str) -> None:
    optuna.create_study(study_name=NAME, storage=url, direction="maximize")
    with pytest.raises(StoreError, match="it was not made by a stantune search"):
        reopened(url)
    study = optuna.create_study(study_name="theirs", storage=url)
    study.enqueue_trial({"x": 1})
    words = r"'theirs' in sqlite://.* was not made by a stantune search: .*--fresh"
    with pytest.raises(StoreError, match=words) as error:
        Store.open(url, "theirs", {}, SPACE)
    one_sentence(error)


def test_a_foreign_trial_is_refused_when_it_is_met_and_ever_after(store: Store, url: str) -> None:
    fill(store)
    optuna.load_study(study_name=NAME, storage=url).enqueue_trial({"lr": 1.0})
    with pytest.raises(StoreError, match="it has 5 trials where this search made 4") as error:
        store.create(4, PARAMS, 1)
    one_sentence(error)
    # What belongs to the search can still be recorded.
    store.record(3, 1, 5.0)
    with pytest.raises(StoreError, match="trial 4 was added by another program"):
        reopened(url)
    # Nothing was left behind by the refused one.
    assert len(optuna.load_study(study_name=NAME, storage=url).trials) == 5


def test_a_foreign_trial_is_refused_by_the_api_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stantune.search.tables._KNOWN_LAYOUT", "v9.9.9.a")
    with reopened(url) as store:
        study = optuna.load_study(study_name=NAME, storage=url)
        study.enqueue_trial({"lr": 1.0})
        with pytest.raises(StoreError, match="it has 1 trials where this search made 0"):
            store.create(0, PARAMS, 1)
        assert [trial.state for trial in study.trials] == [TrialState.WAITING, TrialState.FAIL]


def test_a_copied_trial_is_refused(store: Store, url: str) -> None:
    fill(store)
    study = optuna.load_study(study_name=NAME, storage=url)
    study.add_trial(study.trials[1])
    with pytest.raises(StoreError, match="trial 4 was added by another program"):
        reopened(url)


@pytest.mark.parametrize("by_api", [False, True])
def test_a_trial_ended_by_another_program_is_refused(url: str, by_api: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_api:
        monkeypatch.setattr("stantune.search.tables._KNOWN_LAYOUT", "v9.9.9.a")
    with reopened(url) as store:
        fill(store)
        study = optuna.load_study(study_name=NAME, storage=url)
        study.tell(3, 0.5)
        for write in (
            lambda: store.record(3, 1, 5.0),
            lambda: store.record_divergence(3, 1, 1),
            lambda: store.close({3: "dropped"}),
        ):
            with pytest.raises(StoreError, match="ended") as error:
                write()
            one_sentence(error)
    with pytest.raises(StoreError, match="trial 3 was ended by another program"):
        reopened(url)


def test_a_study_deleted_under_a_search(store: Store, url: str) -> None:
    fill(store)
    optuna.delete_study(study_name=NAME, storage=url)
    with pytest.raises(StoreError, match="is gone"):
        store.create(4, PARAMS, 1)
    with pytest.raises(StoreError, match="is gone or was ended"):
        store.record(3, 1, 5.0)
    with pytest.raises(StoreError) as error:
        store.set_final({})
    one_sentence(error)


def test_numbers_and_errors_that_only_a_mistake_can_give(store: Store) -> None:
    with pytest.raises(AssertionError, match="trial 1 created where 0 is next"):
        store.create(1, PARAMS, 2)
    store.create(0, PARAMS, 2)
    with pytest.raises(AssertionError, match="record a divergence"):
        store.record(0, 1, float("nan"))


def test_the_file_is_in_write_ahead_mode(store: Store, tmp_path: Path) -> None:
    store.create(0, PARAMS, 2)
    raw = sqlite3.connect(tmp_path / "search.db")
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()
    store.release()
    assert not (tmp_path / "search.db-wal").exists()


def test_closing_syncs_and_leaves_the_connection_as_it_was(store: Store) -> None:
    def mode() -> int:
        with store._storage.engine.connect() as connection:  # type: ignore[attr-defined]
            return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    normal, full = 1, 2
    store.create(0, PARAMS, 2)
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


def test_a_reader_does_not_stop_the_writer(store: Store, url: str, tmp_path: Path) -> None:
    fill(store)
    raw = sqlite3.connect(tmp_path / "search.db", isolation_level=None)
    raw.execute("BEGIN")
    raw.execute("SELECT COUNT(*) FROM trials").fetchone()
    store.create(4, PARAMS, 1)
    store.record(4, 1, 5.0)
    raw.close()


def test_a_locked_database(store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.1)
    raw = sqlite3.connect(tmp_path / "search.db", isolation_level=None, check_same_thread=False)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"database is locked.*another program is writing to it") as error:
        reopened(url)
    one_sentence(error)
    # One that is released in time is only waited for.
    timer = threading.Timer(0.3, lambda: raw.execute("COMMIT"))
    timer.start()
    store.record(3, 1, 5.0)
    timer.join()
    raw.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    path.write_text("not a database, but long enough to look like a file with a header " * 20)
    with pytest.raises(StoreError, match=r"file is not a database.*move it away") as error:
        reopened(sqlite_url(path))
    one_sentence(error)
    with pytest.raises(StoreError, match="file is not a database"):
        Store.delete(sqlite_url(path), NAME)


def test_a_database_cut_short(store: Store, url: str, tmp_path: Path) -> None:
    fill(store)
    store.release()
    path = tmp_path / "search.db"
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(StoreError) as error:
        reopened(url)
    one_sentence(error)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unable to open database file.*its directory exists") as error:
        reopened(sqlite_url(tmp_path / "nowhere" / "search.db"))
    one_sentence(error)


@pytest.mark.parametrize("bad", ["", "runs/search.db", "http//x", "sqlite:/x"])
def test_what_is_no_url(bad: str) -> None:
    with pytest.raises(UsageError, match="is no storage URL: give one like sqlite:///") as error:
        reopened(bad)
    one_sentence(error)


def test_a_driver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"driver that is not installed.*install it") as error:
        reopened("nosuchbase://user:secret@host/name")
    assert "secret" not in one_sentence(error)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(StoreError, match=r"driver that is not installed.*install it") as error:
        reopened("postgresql+psycopg2://user:secret@host/name")
    assert "secret" not in one_sentence(error)


def test_a_server_that_does_not_answer() -> None:
    pytest.importorskip("psycopg2")
    with pytest.raises(StoreError, match=r"cannot be used .*the address is right and the database answers") as error:
        reopened("postgresql+psycopg2://user:secret@127.0.0.1:1/name")
    assert "secret" not in one_sentence(error)


@pytest.mark.parametrize("name", ["a b.db", "a%20b.db", "{x}.db", "{SCHEMA_VERSION}.db", "ä#@:.db", "a?b=c.db"])
def test_any_path_has_its_url(name: str, tmp_path: Path) -> None:
    with reopened(sqlite_url(tmp_path / name)) as store:
        fill(store)
        assert (tmp_path / name).is_file()
    with reopened(sqlite_url(tmp_path / name)) as again:
        assert again.rows() == ROWS


def test_a_whole_search_in_the_store(simulated: ModuleType, url: str) -> None:
    brackets, of = plan(27, 1, 3), simulated.outcome(0)
    with Store.open(url, NAME, simulated.IDENTITY, simulated.SPACE) as store:
        simulated.search(store, brackets, of)
        assert len(store.rows()) == sum(bracket.rungs[0].trials for bracket in brackets)
    states = {trial.state for trial in optuna.load_study(study_name=NAME, storage=url).trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}


def test_nothing_is_printed(url: str) -> None:
    code = (
        "import sys; from stantune.search.store import Store; from stantune.space import Float, Space;"
        "Store.open(sys.argv[1], 'a', {}, Space({'x': Float(0, 1)})).release(); Store.delete(sys.argv[1], 'a')"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_trial_holds_what_exists_and_optuna_sees_no_more(url: str) -> None:
    space = Space({**SPACE, "m": Integer(1, 3)}, when={"n": {"pool": "max"}, "m": {"n": (7, 8)}})
    settings = [
        {"lr": 0.1, "pool": None},
        {"lr": 0.1, "n": 3, "pool": "max"},
        {"lr": 0.1, "n": 7, "pool": "max", "m": 2},
    ]
    with reopened(url, space=space) as store:
        for number, params in enumerate(settings):
            store.create(number, params, 2)
            store.record(number, 1, 10.0 * number)
        store.close(dict.fromkeys(range(3), "finished"))
    with reopened(url, space=space) as again:
        assert [row.params for row in again.rows()] == settings
    study = optuna.load_study(study_name=NAME, storage=url)
    assert [set(trial.distributions) for trial in study.trials] == [set(params) for params in settings]
    study.add_trial(optuna.trial.create_trial(params={}, distributions={}, value=1.0))
    with pytest.raises(StoreError, match="trial 3 was added by another program"):
        reopened(url, space=space)


def test_optuna_draws_conditional_parameters(url: str) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    space = Space(dict(SPACE), when={"n": {"pool": "max"}})
    with reopened(url, space=space) as store:
        for number, params in enumerate([{"lr": 0.1, "pool": None}, {"lr": 0.2, "n": 3, "pool": "max"}]):
            store.create(number, params, 2)
            store.record(number, 1, 10.0 * number)
        store.close(dict.fromkeys(range(2), "finished"))
    study = optuna.load_study(study_name=NAME, storage=url)
    for draw in (optuna.visualization.plot_slice, optuna.visualization.plot_parallel_coordinate):
        assert isinstance(draw(study), go.Figure)


def test_a_trial_without_a_parameter_that_exists_is_not_ours(url: str) -> None:
    with reopened(url) as store:
        store.create(0, PARAMS, 2)
    conditional = Space(dict(SPACE), when={"n": {"pool": "max"}})
    with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
        raw.execute(
            "UPDATE study_user_attributes SET value_json = json_set(value_json, '$.space.n.when', json(?))",
            ('{"pool": ["max"]}',),
        )
    with pytest.raises(StoreError, match="trial 0 was added by another program"):
        reopened(url, space=conditional)


@pytest.mark.parametrize("by_api", [False, True])
def test_what_is_taken_over_comes_back(url: str, by_api: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_api:
        monkeypatch.setattr("stantune.search.tables._KNOWN_LAYOUT", "v9.9.9.a")
    with reopened(url) as store:
        store.create(0, PARAMS, 2)
        store.create(1, {**PARAMS, "n": 8}, 2, started_from=17)
        store.create(2, PARAMS, 2)
        store.record(0, 1, 50.0, {})
        store.record_divergence(0, 3, 2, {})
        store.take_over(TakeOver(2, 1, 0, 50.0, None))
        store.take_over(TakeOver(2, 3, 0, None, 2))
        store.create(3, PARAMS, 1)
        rows = store.rows()
    assert rows[2] == TrialRow(2, 2, PARAMS, {1: 50.0}, 2, equals=(0,), taken={1: 0, 3: 0})
    assert rows[3].equals == (0,), "of each bracket the first"
    assert rows[1].started_from == 17
    with reopened(url) as again:
        assert again.rows() == rows
    attributes = optuna.load_study(study_name=NAME, storage=url).trials[2].user_attrs
    assert attributes["stantune:taken_over_from:3"] == 0


def test_what_a_search_was_started_from_comes_back(url: str) -> None:
    trials = tuple(PastTrial(n, {**PARAMS, "n": n % 9}, {1: float(n), 3: None if n % 2 else 0.5}) for n in range(120))
    start = WarmStart("/runs/old", "old (1a)", trials, (trials[7], trials[3]))
    assert Store.start_of(url, NAME) is None
    Store.open(url, NAME, {"seed": 0}, SPACE, start).release()
    assert Store.start_of(url, NAME) == start
    with Store.open(url, "other", {"seed": 0}, SPACE):
        assert Store.start_of(url, "other") is None
