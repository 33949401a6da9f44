"""A search cut at any write and taken up again ends in the table of the search that was never cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage

from stantune.outcome import Cost
from stantune.search.plan.hyperband import plan
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store

SECOND = Cost(exact=3, exact_seconds=1.0)
WRITES = (
    "create_new_study",
    "set_study_user_attr",
    "create_new_trial",
    "set_trial_user_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
)


class Cut(BaseException):
    """Stands for a kill: nothing may catch it."""


class CutStorage(InMemoryStorage):
    """A storage that raises Cut just before or just after its next so-many-th write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes_left: float = float("inf")
        self.after = False


def _cutting(name: str) -> Any:
    def write(self: CutStorage, *args: Any, **kwargs: Any) -> Any:
        self.writes_left -= 1
        if self.writes_left == 0 and not self.after:
            raise Cut
        result = getattr(InMemoryStorage, name)(self, *args, **kwargs)
        if self.writes_left == 0:
            raise Cut
        return result

    return write


for _name in WRITES:
    setattr(CutStorage, _name, _cutting(_name))


def study_in(storage: Any) -> list[Any]:
    """Return all that a finished study holds, but for the times."""
    study = optuna.load_study(study_name="cuts", storage=storage)
    return [
        sorted(study.user_attrs.items()),
        *(
            (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.intermediate_values)
            for t in study.trials
        ),
    ]


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(9, 1, 3), (16, 2, 2), (4, 1, 4), (27, 3, 3)]),
    st.sampled_from([0, 64, 160, 256]),
    st.lists(st.tuples(st.integers(1, 80), st.booleans()), max_size=8),
)
def test_cut_at_any_write_of_the_api(
    simulated: ModuleType,
    salt: int,
    shape: tuple[int, int, int],
    diverging: int,
    cuts: list[tuple[int, bool]],
) -> None:
    brackets, of = plan(*shape), simulated.outcome(salt, levels=3, diverging=diverging)
    whole = CutStorage()
    simulated.search(
        Store(whole, "cuts", simulated.IDENTITY, simulated.SPACE, "memory", simulated.METRIC), brackets, of
    )

    storage = CutStorage()
    for writes, after in [*cuts, (float("inf"), False)]:
        storage.writes_left, storage.after = writes, after
        try:
            store = Store(storage, "cuts", simulated.IDENTITY, simulated.SPACE, "memory", simulated.METRIC)
            simulated.search(store, brackets, of)
        except Cut:
            continue
        assert (
            store.rows() == Store(whole, "cuts", simulated.IDENTITY, simulated.SPACE, "memory", simulated.METRIC).rows()
        )
    assert study_in(storage) == study_in(whole)


def test_the_cost_of_a_cut_segment_does_not_count(simulated: ModuleType) -> None:
    storage = CutStorage()
    store = Store(storage, "cuts", simulated.IDENTITY, simulated.SPACE, "memory", simulated.METRIC)
    store.create(0, {"lr": 1.0, "momentum": 0.5, "hidden": 100, "pool": "max"}, 2)
    store.record(0, 1, {"error": 50.0}, SECOND)
    storage.writes_left, storage.after = 1, True
    with pytest.raises(Cut):
        store.record(0, 3, {"error": 40.0}, Cost(exact=4, exact_seconds=2.0))
    again = Store(storage, "cuts", simulated.IDENTITY, simulated.SPACE, "memory", simulated.METRIC)
    assert "stantune:cost:3" in study_in(storage)[1][5], "the cut did not come between cost and error"
    assert again.rows() == store.rows()
    assert again.rows()[0].costs == {1: SECOND}


def test_cut_at_every_statement_of_the_database(simulated: ModuleType, tmp_path: Path) -> None:
    brackets, of = plan(4, 1, 2), simulated.outcome(1)
    whole = sqlite_url(tmp_path / "whole.db")
    with Store.open(whole, "cuts", simulated.IDENTITY, simulated.SPACE, simulated.METRIC) as store:
        simulated.search(store, brackets, of)
        rows = store.rows()

    url, trained, cuts = sqlite_url(tmp_path / "cut.db"), [], 0

    def counting(number: int, stop: int) -> float | None:
        trained.append((number, stop))
        return of(number, stop)  # type: ignore[no-any-return]

    # Each life is one statement longer than the last. No step takes more than some ten statements, so after the
    # first lives each gets further, and the cuts fall on every statement of a step sooner or later.
    for life in itertools.count(1):
        left = life

        def cut(*_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Cut

        with Store.open(url, "cuts", simulated.IDENTITY, simulated.SPACE, simulated.METRIC) as store:
            engine = store._storage.engine  # type: ignore[attr-defined]
            sqlalchemy.event.listen(engine, "before_cursor_execute", cut)
            sqlalchemy.event.listen(engine, "commit", cut)
            try:
                simulated.search(store, brackets, counting)
            except Cut:
                cuts += 1
            else:
                break
            finally:
                sqlalchemy.event.remove(engine, "before_cursor_execute", cut)
                sqlalchemy.event.remove(engine, "commit", cut)
    assert cuts > 15
    with Store.open(url, "cuts", simulated.IDENTITY, simulated.SPACE, simulated.METRIC) as store:
        assert store.rows() == rows
    assert study_in(url) == study_in(whole)
    # A segment is trained again only where a cut came before it was recorded.
    assert len(set(trained)) < len(trained) <= len(set(trained)) + cuts


@pytest.mark.parametrize("statement", range(1, 8))
def test_a_cut_transaction_leaves_nothing(simulated: ModuleType, tmp_path: Path, statement: int) -> None:
    url = sqlite_url(tmp_path / "search.db")
    with Store.open(url, "cuts", simulated.IDENTITY, simulated.SPACE, simulated.METRIC) as store:
        store.create(0, {"lr": 1.0, "momentum": 0.5, "hidden": 100, "pool": "max"}, 2)
        engine, seen = store._storage.engine, 0  # type: ignore[attr-defined]
        before = study_in(url)

        def cut(*_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == statement:
                raise Cut

        # Touching the trial, two for the attributes, two for the value; the commit is the sixth.
        sqlalchemy.event.listen(engine, "before_cursor_execute", cut)
        sqlalchemy.event.listen(engine, "commit", cut)
        if statement <= 6:
            with pytest.raises(Cut):
                store.record(0, 1, {"error": 5.0}, SECOND)
            assert study_in(url) == before
        else:
            store.record(0, 1, {"error": 5.0}, SECOND)
            assert study_in(url) != before
