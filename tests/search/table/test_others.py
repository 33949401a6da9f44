"""The trial table: what is of another search, or another program did to it, is refused in one sentence."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from stantune.errors import StoreError, UsageError
from stantune.outcome import Cost
from stantune.parameters import Float
from stantune.search.plan.values import FinalResult
from stantune.search.table.store import Store
from stantune.search.table.tables import SqlTables
from stantune.space import Space


def test_another_identity_is_refused_by_its_differences(table: Any, store: Store, url: str) -> None:
    space = Space({**table.space, "lr": Float(5e-5, 1, log=True)})
    with pytest.raises(UsageError) as error:
        table.open(url, {"seed": 1, "eta": 3}, space)
    message = table.one_sentence(error)
    assert "(eta: not set there, 3 here; seed: 0 there, 1 here; space.lr.high: 5 there, 1 here)" in message
    assert "`fresh`" in message


def test_identity_may_be_of_any_plain_values(table: Any, url: str) -> None:
    identity = {"a": (1, 2), "b": {"c": None}, "rate": 0.1}
    table.open(url, identity).release()
    with table.open(url, identity) as again:
        assert again.rows() == []
    with pytest.raises(UsageError, match=r"\(b\.c: None there, 0 here\)"):
        table.open(url, {**identity, "b": {"c": 0}})


def test_a_study_cut_before_its_identity_is_taken_up(table: Any, url: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name=table.name, storage=url)
    with table.open(url) as store:
        table.fill(store)
    with table.open(url) as again:
        assert again.rows() == list(table.rows)


def test_a_study_of_another_kind_is_refused(table: Any, url: str) -> None:
    optuna.create_study(study_name=table.name, storage=url, direction="maximize")
    with pytest.raises(StoreError, match="it was not made by a stantune search"):
        table.open(url)
    study = optuna.create_study(study_name="theirs", storage=url)
    study.enqueue_trial({"x": 1})
    words = r"'theirs' in sqlite://.* was not made by a stantune search: .*`fresh`"
    with pytest.raises(StoreError, match=words) as error:
        Store.open(url, "theirs", {}, table.space, table.metric)
    table.one_sentence(error)


def test_a_foreign_trial_is_refused_when_it_is_met_and_ever_after(table: Any, store: Store, url: str) -> None:
    table.fill(store)
    optuna.load_study(study_name=table.name, storage=url).enqueue_trial({"lr": 1.0})
    with pytest.raises(StoreError, match="it has 5 trials where this search made 4") as error:
        store.create(4, table.params, 1)
    table.one_sentence(error)
    # What belongs to the search can still be recorded.
    store.record(3, 1, {"error": 5.0})
    with pytest.raises(StoreError, match="trial 4 was added by another program"):
        table.open(url)
    # Nothing was left behind by the refused one.
    assert len(optuna.load_study(study_name=table.name, storage=url).trials) == 5


@pytest.mark.parametrize("raced", [False, True])
def test_a_foreign_trial_is_refused_by_the_api_too(
    table: Any, url: str, raced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stantune.search.table.tables._KNOWN_LAYOUT", "v9.9.9.a")
    with table.open(url) as store:
        study = optuna.load_study(study_name=table.name, storage=url)
        study.enqueue_trial({"lr": 1.0})
        if raced:
            # It was added between the look and the write.
            monkeypatch.setattr(store._storage, "get_n_trials", lambda study_id: 0)
        with pytest.raises(StoreError, match="it has 1 trials where this search made 0"):
            store.create(0, table.params, 1)
        assert [trial.state for trial in study.trials] == [TrialState.WAITING, *[TrialState.FAIL] * raced]


def test_a_copied_trial_is_refused(table: Any, store: Store, url: str) -> None:
    table.fill(store)
    study = optuna.load_study(study_name=table.name, storage=url)
    study.add_trial(study.trials[1])
    with pytest.raises(StoreError, match="trial 4 was added by another program"):
        table.open(url)


@pytest.mark.parametrize("by_api", [False, True])
def test_a_trial_ended_by_another_program_is_refused(
    table: Any, url: str, by_api: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_api:
        monkeypatch.setattr("stantune.search.table.tables._KNOWN_LAYOUT", "v9.9.9.a")
    with table.open(url) as store:
        table.fill(store)
        study = optuna.load_study(study_name=table.name, storage=url)
        study.tell(3, 0.5)
        for write in (
            lambda: store.record(3, 1, {"error": 5.0}),
            lambda: store.record_divergence(3, 1, 1),
            lambda: store.close({3: "dropped"}),
        ):
            with pytest.raises(StoreError, match="ended") as error:
                write()
            table.one_sentence(error)
    with pytest.raises(StoreError, match="trial 3 was ended by another program"):
        table.open(url)


def test_a_study_deleted_under_a_search(table: Any, store: Store, url: str) -> None:
    table.fill(store)
    optuna.delete_study(study_name=table.name, storage=url)
    with pytest.raises(StoreError, match="is gone"):
        store.create(4, table.params, 1)
    with pytest.raises(StoreError, match="is gone or was ended"):
        store.record(3, 1, {"error": 5.0})
    with pytest.raises(StoreError) as error:
        store.set_final(0, FinalResult(table.params, 3, {}, None, Cost()))
    table.one_sentence(error)


def test_numbers_and_errors_that_only_a_mistake_can_give(table: Any, store: Store) -> None:
    with pytest.raises(AssertionError, match="trial 1 created where 0 is next"):
        store.create(1, table.params, 2)
    store.create(0, table.params, 2)
    with pytest.raises(AssertionError, match="record a divergence"):
        store.record(0, 1, {"error": float("nan")})


def test_a_foreign_trial_is_not_taken_for_a_write_that_failed(table: Any, url: str) -> None:
    with table.open(url) as store:
        table.fill(store)
        study = optuna.load_study(study_name=table.name, storage=url)
        study.enqueue_trial({"lr": 1.0})
        # Asked for again, it may have been written the first time; what is there is another one's.
        for _ in range(2):
            with pytest.raises(StoreError, match="it has 5 trials where this search made 4"):
                store.create(4, table.params, 1)
        assert len(store.rows()) == 4


def test_trials_are_counted_once_and_then_only_those_that_are_new(table: Any, store: Store, url: str) -> None:
    counts: list[str] = []

    def noted(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        if "count(" in statement:
            counts.append(statement)

    engine = store._storage.engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "after_cursor_execute", noted)
    for number in range(5):
        store.create(number, table.params, 2)
    assert ["trial_id >" in count for count in counts] == [False, True, True, True, True]
    # The trial that was written while its answer was lost is not the last that is known of.
    store._tables._tables._last = None  # type: ignore[attr-defined]
    for number in (5, 6):
        store.create(number, table.params, 2)
    assert ["trial_id >" in count for count in counts[5:]] == [False, True]
    study = optuna.load_study(study_name=table.name, storage=url)
    study.enqueue_trial({"lr": 1.0})
    study.enqueue_trial({"lr": 2.0})
    with pytest.raises(StoreError, match="it has 9 trials where this search made 7"):
        store.create(7, table.params, 2)


def test_a_last_trial_that_is_gone_is_seen_though_another_study_has_its_id(table: Any, store: Store, url: str) -> None:
    for number in range(2):
        store.create(number, table.params, 2)
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.exec_driver_sql("DELETE FROM trials WHERE number = 1")
    optuna.create_study(study_name="another", storage=url).add_trial(optuna.trial.create_trial(value=0.0))
    with pytest.raises(StoreError, match="it has 1 trials where this search made 2"):
        store.create(2, table.params, 2)


def test_a_trial_whose_answer_was_lost_is_followed_by_the_next(
    table: Any, store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stantune.search.table.storages.retry.PAUSE_SECONDS", 0.0)
    create = SqlTables.create

    def lost(tables: SqlTables, number: int, *others: Any) -> int:
        last = tables._last
        found = create(tables, number, *others)
        if number == 2:
            tables._last = last
            raise sqlalchemy.exc.OperationalError("", {}, Exception("server closed the connection"))
        return found

    monkeypatch.setattr(SqlTables, "create", lost)
    for number in range(5):
        store.create(number, table.params, 2)
    with table.open(url) as again:
        assert again.rows() == store.rows()
