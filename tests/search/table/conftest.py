"""A trial table with four trials, at an address of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stantune.outcome import Cost
from stantune.parameters import Categorical, Float, Integer
from stantune.protocols import Metric
from stantune.search.plan.values import TrialRow
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store
from stantune.space import Space


class Table:
    """The table that is opened unless a test says otherwise, and what `fill` writes into it."""

    name = "lenet"
    metric = Metric("error")
    space = Space({"lr": Float(5e-5, 5, log=True), "n": Integer(1, 9), "pool": Categorical(("max", None))})
    params = {"lr": 0.1 + 0.2, "n": 7, "pool": None}  # noqa: RUF012
    first, second = Cost(exact=1, exact_seconds=1.5), Cost(reduced=1, reduced_seconds=0.5, evaluation_seconds=0.1)
    lost = Cost(exact=2, exact_seconds=0.25)
    # All have the same setting, so that each names the first of them.
    rows = (
        TrialRow(0, 2, params, {1: 50.0}, None, {1: first}, metrics={1: {"error": 50.0}}),
        TrialRow(
            1,
            2,
            params,
            {1: 40.0, 3: 1 / 3},
            None,
            {1: second, 3: Cost()},
            equals=(0,),
            metrics={1: {"error": 40.0, "loss": 0.1 + 0.2}, 3: {"error": 1 / 3}},
        ),
        TrialRow(2, 2, params, {}, 1, {1: lost}, equals=(0,)),
        TrialRow(3, 2, params, equals=(0,)),
    )

    def open(self, url: str, identity: Any = None, space: Space | None = None, **others: Any) -> Store:
        others.setdefault("metric", self.metric)
        return Store.open(url, self.name, identity or {"seed": 0}, space or self.space, **others)

    def fill(self, store: Store) -> None:
        for number in range(4):
            store.create(number, self.params, 2)
        store.record(0, 1, {"error": 50.0}, self.first)
        store.record(1, 1, {"error": 40.0, "loss": 0.1 + 0.2}, self.second)
        store.record_divergence(2, 1, 1, self.lost)
        store.record(1, 3, {"error": 1 / 3})
        store.close({0: "dropped", 2: "diverged", 1: "finished"})

    def one_sentence(self, error: pytest.ExceptionInfo[Exception]) -> str:
        """Return what an error says, which is one short line."""
        message = str(error.value)
        assert "\n" not in message
        assert len(message) < 400
        return message


@pytest.fixture(scope="session")
def table() -> Table:
    """The table."""
    return Table()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where it is."""
    return sqlite_url(tmp_path / "search.db")


@pytest.fixture
def store(table: Table, url: str) -> Iterator[Store]:
    """It, opened."""
    with table.open(url) as opened:
        yield opened
