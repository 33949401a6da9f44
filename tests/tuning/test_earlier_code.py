"""Searches whose code an earlier version noted by another rule go on by that, and not with other code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from earlier_code import noted_as_before

import stantune as st
from stantune.search.table.looking.look import look
from stantune.user_code.digest import digest

SPACE = st.Space({"x": st.Float(0, 1)})
# Earlier versions did not see such a statement.
FACTOR, (TERM,) = 2.0, (3.0,)


def train(run: st.Run) -> float:
    for _ in run.steps():
        run.loss(1.0)
    return float(run.params["x"]) * FACTOR + TERM


def other(run: st.Run) -> float:
    return float(run.params["x"]) * FACTOR - TERM


def searched(function: Any, out: Path, **options: Any) -> tuple[list[dict[str, float]], Any]:
    """Return what a search's trials measured, and its identity."""
    given: dict[str, Any] = {"name": "same", "length": 3, "metric": st.Metric("loss")} | {"space": SPACE}
    found = st.tune(st.FunctionObjective(function, **given), threads=1, device="cpu", out=out, **options)
    assert found.complete
    return [dict(trial.metrics) for trial in found.trials()], look(out).identity


def test_a_search_that_an_earlier_version_began_goes_on(tmp_path: Path) -> None:
    with noted_as_before():
        before = searched(train, tmp_path, brackets=1)
    assert before[1]["code"] == digest(train).earlier
    assert digest(train) != digest(train).earlier
    # It stays what it was, for searches that start from it, too.
    assert searched(train, tmp_path, brackets=1) == before
    with pytest.raises(st.UsageError, match=r"\(code: \w+ there, \w+ here\).*say with `accept_changes`"):
        searched(other, tmp_path, brackets=1)
    trials, identity = searched(train, tmp_path)
    assert trials[: len(before[0])] == before[0]
    assert len(trials) > len(before[0])
    assert identity["code"] == digest(train)


def test_its_code_may_be_changed_where_that_is_accepted(tmp_path: Path) -> None:
    with noted_as_before():
        searched(train, tmp_path, brackets=1)
    assert searched(other, tmp_path, brackets=1, accept_changes=True)[1]["code"] == digest(other)


def test_loggers_are_told_plain_texts(tmp_path: Path) -> None:
    class Noting:
        name = "noting"

        def begin(self, search: Any) -> None:
            self.code = search.identity["code"]

        def training(self, training: Any) -> None: ...

        def segment(self, training: Any, segment: Any) -> None: ...

        def ended(self, training: Any, how: str) -> None: ...

        def close(self) -> None: ...

    logger = Noting()
    searched(train, tmp_path, brackets=1, loggers=[logger])
    assert logger.code == digest(train)
    assert type(logger.code) is str
