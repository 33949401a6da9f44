"""The trial table: what comes back, and what Optuna sees of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from stantune.errors import StoreError
from stantune.outcome import Cost
from stantune.parameters import Categorical, Integer
from stantune.protocols import Metric
from stantune.search.plan.hyperband import plan
from stantune.search.plan.values import FinalResult, PastTrial, TakeOver, TrialRow, WarmStart
from stantune.search.propose.sampling import from_distribution, to_distribution
from stantune.search.table import studies
from stantune.search.table.rows import is_of
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store
from stantune.space import Space


def test_rows_come_back_bit_for_bit(table: Any, store: Store, url: str) -> None:
    table.fill(store)
    assert store.rows() == list(table.rows)
    with table.open(url) as again:
        assert again.rows() == list(table.rows)


def test_what_optuna_sees(table: Any, store: Store, url: str) -> None:
    table.fill(store)
    study = optuna.load_study(study_name=table.name, storage=url)
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
    assert trials[1].params == table.params
    assert trials[1].distributions["lr"] == optuna.distributions.FloatDistribution(5e-5, 5, log=True)
    assert trials[2].user_attrs["stantune:diverged_at"] == 1
    assert [trial.user_attrs.get("stantune:end") for trial in trials] == ["dropped", "finished", "diverged", None]
    for trial in trials[:3]:
        assert trial.duration is not None
        assert 0 <= trial.duration.total_seconds() < 60
    assert study.best_trial.number == 1


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process cannot be set here")
def test_times_are_local_whatever_optuna_keeps(table: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with table.open(url) as store:
            table.fill(store)
        trial = optuna.load_study(study_name=table.name, storage=url).trials[0]
        for at in (trial.datetime_start, trial.datetime_complete):
            assert at is not None
            assert abs((at - datetime.now()).total_seconds()) < 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_both_ways_to_write_leave_the_same(
    table: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(at: str) -> list[Any]:
        return [
            (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.intermediate_values)
            for t in optuna.load_study(study_name=table.name, storage=at).trials
        ]

    with table.open(url) as by_sql:
        table.fill(by_sql)
        assert type(by_sql._tables._tables).__name__ == "SqlTables"  # type: ignore[attr-defined]
    monkeypatch.setattr("stantune.search.table.tables._KNOWN_LAYOUT", "v9.9.9.a")
    other = sqlite_url(tmp_path / "other.db")
    with table.open(other) as by_api:
        table.fill(by_api)
        assert type(by_api._tables._tables).__name__ == "ApiTables"  # type: ignore[attr-defined]
    assert seen(url) == seen(other)
    assert studies.delete(other, table.name)
    with table.open(other) as emptied:
        assert emptied.rows() == []


def test_recording_the_same_again_replaces_it(table: Any, store: Store, url: str) -> None:
    store.create(0, table.params, 2)
    store.record(0, 1, {"error": 50.0}, Cost(exact_seconds=1.0))
    store.record(0, 1, {"error": 50.0}, Cost(exact_seconds=2.0))
    store.close({0: "dropped"})
    store.close({0: "dropped"})
    with table.open(url) as again:
        assert (
            again.rows()
            == store.rows()
            == [
                TrialRow(
                    0, 2, table.params, {1: 50.0}, None, {1: Cost(exact_seconds=2.0)}, metrics={1: {"error": 50.0}}
                )
            ]
        )


def test_final(table: Any, store: Store, url: str) -> None:
    def final_of(error: float) -> FinalResult:
        return FinalResult(table.params, 3, {"error": error, "other": 1.0}, None, Cost(exact=3, exact_seconds=0.1))

    diverged = FinalResult(table.params, 2, {}, 2, Cost(reduced=2))
    assert store.finals() == {}
    table.fill(store)
    store.set_final(0, final_of(1.0))
    store.set_final(2, diverged)
    store.set_final(0, final_of(0.9))
    with table.open(url) as again:
        assert again.finals() == {0: final_of(0.9), 2: diverged}
        again.drop_final(0)
        again.drop_final(2)
        assert again.finals() == {}
        again.set_final(2, diverged)
    with table.open(url) as again:
        assert again.finals() == {2: diverged}


def test_finals_of_before_metrics_had_names(table: Any, url: str) -> None:
    cost = {"exact": 3, "exact_seconds": 0.1, "reduced": 0, "reduced_seconds": 0.0, "coordination_seconds": 2.0}
    kept = {"params": table.params, "iterations": 3, "diverged_at": None, "cost": cost}
    errors = {"validation": 4.0, "test": 5.0}
    store = table.open(url, metric=Metric("validation error"))
    store.create(0, table.params, 2)
    study = optuna.load_study(study_name=table.name, storage=url)
    study.set_user_attr("stantune:final", {**kept, "errors": errors})
    metrics = {"validation error": 4.0, "test error": 5.0}
    wanted = FinalResult(table.params, 3, metrics, None, Cost(exact=3, exact_seconds=0.1, coordination_seconds=2.0))
    assert store.finals() == {0: wanted}
    store.release()


def test_a_metric_that_is_maximised(table: Any, url: str) -> None:
    metric = Metric("accuracy", "maximize")
    with table.open(url, metric=metric) as store:
        store.create(0, table.params, 2)
        store.create(1, {**table.params, "n": 8}, 2)
        store.create(2, table.params, 2)
        store.record(0, 1, {"accuracy": 0.25})
        store.record(0, 3, {"accuracy": 0.75, "loss": 1.5})
        store.record(1, 1, {"accuracy": 0.0})
        store.take_over(TakeOver(2, 1, 0, -0.25, None))
        store.take_over(TakeOver(2, 3, 0, -0.75, None))
        store.close({0: "finished", 1: "dropped", 2: "finished"})
        rows = store.rows()
    assert [row.errors for row in rows] == [{1: -0.25, 3: -0.75}, {1: 0.0}, {1: -0.25, 3: -0.75}], (
        "the lower the better"
    )
    assert rows[2].metrics == rows[0].metrics == {1: {"accuracy": 0.25}, 3: {"accuracy": 0.75, "loss": 1.5}}
    with table.open(url, metric=metric) as again:
        assert again.rows() == rows
    study = optuna.load_study(study_name=table.name, storage=url)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.value for trial in study.trials] == [0.75, 0.0, 0.75], "as it was measured"
    assert study.best_trial.number in (0, 2)
    table_of = studies.table_of(url, table.name)
    assert table_of is not None
    assert [row.errors for row in table_of[1]] == [row.errors for row in rows]


def test_two_studies_in_one_database(table: Any, store: Store, url: str) -> None:
    table.fill(store)
    with Store.open(url, "other", {"seed": 1}, table.space, table.metric) as other:
        other.create(0, table.params, 0)
        store.create(4, table.params, 1)
        other.create(1, table.params, 0)
        assert len(other.rows()) == 2


def test_delete(table: Any, store: Store, url: str, tmp_path: Path) -> None:
    table.fill(store)
    store.set_final(0, FinalResult(table.params, 3, {}, None, Cost()))
    store.release()
    with Store.open(url, "other", {}, table.space, table.metric) as other:
        table.fill(other)
    assert studies.delete(url, table.name)
    assert not studies.delete(url, table.name)
    with Store.open(url, "other", {}, table.space, table.metric) as other:
        assert other.rows() == list(table.rows)
    assert studies.delete(url, "other")
    with closing(sqlite3.connect(tmp_path / "search.db")) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        left = {name: raw.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in tables}
    assert {name for name, rows in left.items() if rows} <= {"version_info", "alembic_version"}
    with table.open(url, {"seed": 5}) as anew:
        assert anew.rows() == []
        assert anew.finals() == {}


def test_a_whole_search_in_the_store(table: Any, simulated: ModuleType, url: str) -> None:
    brackets, of = plan(27, 1, 3), simulated.outcome(0)
    with Store.open(url, table.name, simulated.IDENTITY, simulated.SPACE, simulated.METRIC) as store:
        simulated.search(store, brackets, of)
        assert len(store.rows()) == sum(bracket.rungs[0].trials for bracket in brackets)
    states = {trial.state for trial in optuna.load_study(study_name=table.name, storage=url).trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}


def test_nothing_is_printed(url: str) -> None:
    code = (
        "import sys; from stantune.protocols import Metric; from stantune import Float, Space;"
        "from stantune.search.table import studies; from stantune.search.table.store import Store;"
        "Store.open(sys.argv[1], 'a', {}, Space({'x': Float(0, 1)}), Metric('error')).release();"
        "studies.delete(sys.argv[1], 'a')"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_trial_holds_what_exists_and_optuna_sees_no_more(table: Any, url: str) -> None:
    space = Space({**table.space, "m": Integer(1, 3)}, when={"n": {"pool": "max"}, "m": {"n": (7, 8)}})
    settings = [
        {"lr": 0.1, "pool": None},
        {"lr": 0.1, "n": 3, "pool": "max"},
        {"lr": 0.1, "n": 7, "pool": "max", "m": 2},
    ]
    with table.open(url, space=space) as store:
        for number, params in enumerate(settings):
            store.create(number, params, 2)
            store.record(number, 1, {"error": 10.0 * number})
        store.close(dict.fromkeys(range(3), "finished"))
    with table.open(url, space=space) as again:
        assert [row.params for row in again.rows()] == settings
    study = optuna.load_study(study_name=table.name, storage=url)
    assert [set(trial.distributions) for trial in study.trials] == [set(params) for params in settings]
    study.add_trial(optuna.trial.create_trial(params={}, distributions={}, value=1.0))
    with pytest.raises(StoreError, match="trial 3 was added by another program"):
        table.open(url, space=space)


def test_optuna_draws_conditional_parameters(table: Any, url: str) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    space = Space(dict(table.space), when={"n": {"pool": "max"}})
    with table.open(url, space=space) as store:
        for number, params in enumerate([{"lr": 0.1, "pool": None}, {"lr": 0.2, "n": 3, "pool": "max"}]):
            store.create(number, params, 2)
            store.record(number, 1, {"error": 10.0 * number})
        store.close(dict.fromkeys(range(2), "finished"))
    study = optuna.load_study(study_name=table.name, storage=url)
    for draw in (optuna.visualization.plot_slice, optuna.visualization.plot_parallel_coordinate):
        assert isinstance(draw(study), go.Figure)


def test_a_trial_without_a_parameter_that_exists_is_not_ours(table: Any, url: str) -> None:
    with table.open(url) as store:
        store.create(0, table.params, 2)
    conditional = Space(dict(table.space), when={"n": {"pool": "max"}})
    with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
        raw.execute(
            "UPDATE study_user_attributes SET value_json = json_set(value_json, '$.space.n.when', json(?))",
            ('{"pool": ["max"]}',),
        )
    with pytest.raises(StoreError, match="trial 0 was added by another program"):
        table.open(url, space=conditional)


@pytest.mark.parametrize("by_api", [False, True])
def test_what_is_taken_over_comes_back(table: Any, url: str, by_api: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_api:
        monkeypatch.setattr("stantune.search.table.tables._KNOWN_LAYOUT", "v9.9.9.a")
    with table.open(url) as store:
        store.create(0, table.params, 2)
        store.create(1, {**table.params, "n": 8}, 2, started_from=17)
        store.create(2, table.params, 2)
        store.record(0, 1, {"error": 50.0, "loss": 2.5}, share=0.25)
        store.record_divergence(0, 3, 2)
        store.take_over(TakeOver(2, 1, 0, 50.0, None))
        store.take_over(TakeOver(2, 3, 0, None, 2))
        store.create(3, table.params, 1)
        rows = store.rows()
    measured = {"metrics": {1: {"error": 50.0, "loss": 2.5}}, "shares": {1: 0.25}}
    assert rows[2] == TrialRow(2, 2, table.params, {1: 50.0}, 2, equals=(0,), taken={1: 0, 3: 0}, **measured)
    assert rows[3].equals == (0,), "of each bracket the first"
    assert rows[1].started_from == 17
    with table.open(url) as again:
        assert again.rows() == rows
    attributes = optuna.load_study(study_name=table.name, storage=url).trials[2].user_attrs
    assert attributes["stantune:taken_over_from:3"] == 0


def test_what_a_search_was_started_from_comes_back(table: Any, url: str) -> None:
    trials = tuple(
        PastTrial(n, {**table.params, "n": n % 9}, {1: float(n), 3: None if n % 2 else 0.5}) for n in range(120)
    )
    start = WarmStart("/runs/old", "old (1a)", trials, (trials[7], trials[3]))
    assert studies.start_of(url, table.name) is None
    Store.open(url, table.name, {"seed": 0}, table.space, table.metric, start).release()
    assert studies.start_of(url, table.name) == start
    with Store.open(url, "other", {"seed": 0}, table.space, table.metric):
        assert studies.start_of(url, "other") is None


def test_choices_that_are_known_are_not_taken_apart_in_each_trial(
    table: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space({"kind": Categorical((*map(str, range(100)), (3, 3), None)), "n": Integer(1, 4)})
    with table.open(url, space=space) as store:
        for number in range(3):
            store.create(number, {"kind": (3, 3), "n": 2}, 2)
    taken_apart: list[Any] = []

    def noted(distribution: Any) -> Any:
        taken_apart.append(distribution)
        return from_distribution(distribution)

    monkeypatch.setattr("stantune.search.table.rows.from_distribution", noted)
    with table.open(url, space=space) as store:
        assert len(store.rows()) == 3
    assert not [one for one in taken_apart if isinstance(one, optuna.distributions.CategoricalDistribution)]


@pytest.mark.parametrize("choices", [("b", "a"), ("a",), ("a", "b", "c"), ("a", True), ("a", "a")])
def test_other_choices_are_another_program_s(choices: tuple[Any, ...]) -> None:
    space = Space({"kind": Categorical(("a", "b"))})
    known = {name: to_distribution(parameter) for name, parameter in space.items()}
    for there, same in ((("a", "b"), True), (choices, False)):
        distribution = optuna.distributions.CategoricalDistribution(there)
        trial = optuna.trial.create_trial(value=0.0, params={"kind": "a"}, distributions={"kind": distribution})
        assert is_of(trial, space, known) is same
