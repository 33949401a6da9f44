"""A search that is looked at has the settings that it was called with, and the same result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers

import stantune as st
from stantune.search.results.summary import summarise
from stantune.search.settings import SearchSettings
from stantune.search.table.looking.look import look
from stantune.search.table.looking.recorded import recorded, settings_of

SPACE = st.Space({"x": st.Float(0.0, 1.0), "y": st.Categorical(("a", (1, 2)))})


def train(run: st.Run) -> dict[str, float]:
    for _ in run.steps():
        run.loss(1.0)
    return {"score": run.params["x"]}


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({}, set()),
        ({"mode": "async", "trials": 9, "lag": 3}, {"mode", "trials", "lag"}),
        ({"brackets": 1, "variant": "table1", "sampler": "tpe", "finalists": 2}, {"lag"}),
        ({"enqueue": [{"x": 0.5, "y": (1, 2)}], "fixed": {"y": (1, 2)}, "eta": 2}, {"enqueue", "fixed"}),
    ],
    ids=["plain", "asynchronous", "by a model", "with given settings"],
)
def test_the_table_tells_settings_and_result(tmp_path: Path, asked: dict[str, Any], named: set[str]) -> None:
    result = st.tune(train, SPACE, maximize="score", max_resource=9, seed=3, out=tmp_path / "search", **asked)
    objective, settings, state, identity = recorded(look(result.path))
    assert settings.identity(result.objective) == result.settings.identity(result.objective)
    assert settings.plan() == result.settings.plan()
    there = summarise(objective, settings, state).model_dump_json()
    assert json.loads(there) == json.loads((result.path / "result.json").read_text(encoding="utf-8"))
    assert identity["problem"] == "train"
    # What not every search has there.
    assert named == identity.keys() & {"mode", "trials", "lag", "enqueue", "fixed"}


# What every search has in its identity.
PLAN = {"seed": 0, "max-iterations": 9, "min-iterations": 1, "eta": 3, "variant": "algorithm1"}


def test_rates_by_rung_are_known_again() -> None:
    identity = {**PLAN, "brackets": "all", "accelerate": "stan:0.25,0.5,1", "rate": None}
    assert settings_of(identity).rates == (0.25, 0.5, 1.0)
    settings = SearchSettings(0, 9, 1, rates=(1 / 3, 1.0))
    assert settings_of(settings.identity(Numbers(rate=1.0))).rates == settings.rates


def test_a_sampler_of_ones_own_is_known_by_its_name() -> None:
    settings = settings_of({**PLAN, "brackets": 1, "sampler": "mine", "lag": 5})
    assert (settings.lag, settings.brackets) == (5, 1)
    assert not isinstance(settings.sampler, str)
    assert settings.sampler.name == "mine"
