"""The call that repeats a search is of the same search, whatever STAN's settings were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from stan_settings import settings as stans

import stantune as st
from stantune import Stan
from stantune.images.stan_settings import noted
from stantune.report.page.sections.repeating import _STAN, call_of
from stantune.search.settings import SearchSettings
from stantune.stan.config import LayerPlan, Memo
from stantune.stan.layers.meprop import MeProp
from stantune.tuning.compose import compose
from tests import tiny_problem


def called(settings: SearchSettings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the printed call gives `tune`."""
    *_, call = call_of(settings, identity, Path("there")).splitlines()
    found: dict[str, Any] = {}

    def tune(what: object, **named: Any) -> None:
        found.update(named)

    eval(call, {"tune": tune, "Stan": Stan, "Memo": Memo, "MeProp": MeProp, "tiny": tiny_problem.problem})
    assert found.pop("out") == "there"
    return found


@given(stans())
def test_the_call_has_the_same_settings_of_stan(stan: Stan) -> None:
    identity = json.loads(json.dumps({"problem": "tiny", "pattern": "", "batch-size": 1, "made-of": {}, **noted(stan)}))
    again = called(SearchSettings(seed=0, max_resource=27, min_resource=9), identity)["stan"]
    assert json.loads(json.dumps(noted(again))) == json.loads(json.dumps(noted(stan)))


@pytest.mark.parametrize(
    "asked",
    [
        {"stan": Stan(rate=1, meprop=MeProp(5, layers=("4",), sparse_bias=True), native=False)},
        {"stan": Stan(period=None, offset_sets=16, pattern="rows", pretrain=2)},
        {"stan": Stan(), "rates": (0.25, 0.5, 1.0), "max_resource": 27, "min_resource": 3},
        {"rates": (0.25, 1.0)},
        {"stan": Stan(), "precision": "fp32"},
        {"compile": True},
        {"resize": "1/2:1/4"},
        {"stan": None},
        {},
    ],
    ids=["meprop", "no-refresh", "rates", "rates-alone", "precision", "compile", "resize", "plain", "usual"],
)
def test_what_was_lost_is_in_the_call(asked: dict[str, Any]) -> None:
    asked = {"max_resource": 27, "min_resource": 9, **asked}
    what, settings = compose(tiny_problem.problem, **asked)
    identity = json.loads(json.dumps(settings.identity(what)))
    again, repeated = compose(tiny_problem.problem, **called(settings, identity))
    assert json.loads(json.dumps(repeated.identity(again))) == identity


def test_of_a_function_the_call_has_its_rate() -> None:
    def trains(run: st.Run) -> None: ...

    space = st.Space({"lr": st.Float(0.1, 1)})
    for stan, said in (
        (Stan(rate=0.25, period=9), "stan=Stan(rate=0.25, period=9)"),
        (Stan(rate="annealed", iterations=90), "stan=Stan(rate=((0, 0.25), (30, 0.5), (60, 1.0)), iterations=90)"),
    ):
        what, settings = compose(trains, space, minimize="loss", max_resource=9, min_resource=3, stan=stan)
        assert said in call_of(settings, json.loads(json.dumps(settings.identity(what))), Path("there"))


def test_a_plan_is_decided_anew() -> None:
    _, settings = compose(tiny_problem.problem, max_resource=27, min_resource=9)
    for planned, said in (
        ((LayerPlan("1", ("rows",)),), "Stan(rate='auto', tolerance=0.5, native=False)"),
        # It may have been the planner that left native kernels out.
        ((), "Stan(rate='auto', tolerance=0.5)"),
    ):
        stan = Stan(rate=1.0 if not planned else 0.5, tolerance=0.5, period=4, plan=planned, native=False)
        identity = settings.identity(st.ProblemObjective(tiny_problem.problem, stan))
        assert f"stan={said}, seed" in call_of(settings, identity, Path("there"))


def test_the_defaults_are_those_of_the_class() -> None:
    own = {each.name: each.default for each in fields(Stan) if each.default is not MISSING}
    assert {name: own.get(name) for name in _STAN} == _STAN
    assert own.keys() - _STAN.keys() == {"seed", "plan"}
