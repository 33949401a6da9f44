"""What a search of a problem notes of STAN's settings is all that a result depends on, and comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from stan_settings import FIELDS
from stan_settings import settings as stans

from stantune import Float, Problem, ProblemObjective, Space, Stan, UsageError
from stantune.images.stan_settings import noted, stan_of
from stantune.outcome import Outcome
from stantune.protocols import Conditions, Place, Segment
from stantune.stan.config import LayerPlan, Memo
from stantune.stan.layers.meprop import MeProp
from stantune.stan.planning.plan import Plan
from stantune.stan.planning.timing import ModelTimes
from stantune.training import planning
from stantune.tuning.compose import compose
from tests import tiny_problem

# Of each field two settings that differ in it alone.
MEMO = Memo(100, 10)
MEPROP = MeProp(5)
PAIRS: dict[str, tuple[Stan, Stan]] = {
    "rate": (Stan(rate=0.5), Stan(rate=0.25)),
    "pattern": (Stan(pattern="rows"), Stan(pattern="columns")),
    "period": (Stan(period=1), Stan(period=None)),
    "pretrain": (Stan(), Stan(pretrain=5)),
    "tail": (Stan(iterations=60), Stan(iterations=60, tail=5)),
    "iterations": (Stan(tail=5, iterations=60), Stan(tail=5, iterations=90)),
    "layers": (Stan(), Stan(layers=("conv1",))),
    "tolerance": (Stan(), Stan(tolerance=0.3)),
    "memo": (Stan(), Stan(memo=MEMO)),
    "linear": (Stan(memo=MEMO), Stan(memo=MEMO, linear=("fc1",))),
    "meprop": (Stan(), Stan(meprop=MEPROP)),
    "plan": (Stan(plan=(LayerPlan("conv1", ("rows",)),)), Stan(plan=())),
    "offset_sets": (Stan(), Stan(offset_sets=16)),
    "native": (Stan(), Stan(native=False)),
    "memo.samples": (Stan(memo=MEMO), Stan(memo=replace(MEMO, samples=200))),
    "memo.epoch": (Stan(memo=MEMO), Stan(memo=replace(MEMO, epoch=20))),
    "memo.budget": (Stan(memo=MEMO), Stan(memo=replace(MEMO, budget=1000))),
    "memo.dtype": (Stan(memo=MEMO), Stan(memo=replace(MEMO, dtype="fp32"))),
    "memo.positions": (Stan(memo=MEMO), Stan(memo=replace(MEMO, positions="changed"))),
    "meprop.top_k": (Stan(meprop=MEPROP), Stan(meprop=MeProp(6))),
    "meprop.unified": (Stan(meprop=MEPROP), Stan(meprop=MeProp(5, unified=True))),
    "meprop.layers": (Stan(meprop=MEPROP), Stan(meprop=MeProp(5, layers=("fc1",)))),
    "meprop.sparse_bias": (Stan(meprop=MEPROP), Stan(meprop=MeProp(5, sparse_bias=True))),
}
# Why no result depends on a field.
WITHOUT = {"seed": "each trial's own takes its place"}


def plain(stan: Stan) -> dict[str, Any]:
    """Return what is noted as it comes back from a table."""
    found: dict[str, Any] = json.loads(json.dumps(noted(stan)))
    return found


def test_every_field_is_noted_or_it_is_known_why_not() -> None:
    parts = {f"memo.{each.name}" for each in fields(Memo)} | {f"meprop.{each.name}" for each in fields(MeProp)}
    assert {each.name for each in fields(Stan)} | parts == PAIRS.keys() | WITHOUT.keys()
    assert {each.name for each in fields(Stan)} == {*FIELDS, "seed", "plan"}


@pytest.mark.parametrize("field", PAIRS)
def test_what_differs_in_a_field_is_noted_differently(field: str) -> None:
    one, other = PAIRS[field]
    assert plain(one) != plain(other)
    assert stan_of(plain(one)) == replace(one, iterations=one.iterations if one.tail else None)


@given(stans())
def test_what_is_noted_comes_back(stan: Stan) -> None:
    again = stan_of(plain(stan))
    assert plain(again) == plain(stan)

    def held(each: Stan) -> dict[str, Any]:
        return {**each.identity, "iterations": each.iterations if each.tail else None}

    assert held(again) == held(stan)


def test_what_is_as_by_default_is_noted_as_it_always_was() -> None:
    assert noted(Stan(rate=0.25, layers=("conv2",), tolerance=0.3)) == {
        "accelerate": "stan",
        "rate": 0.25,
        "pattern": "auto",
        "tolerance": 0.3,
        "layers": ["conv2"],
        "plan": None,
        "period": 1,
        "pretrain": 0,
        "tail": 0,
    }
    assert noted(None)["accelerate"] == "none"
    assert {name: value for name, value in noted(None).items() if value is not None} == {"accelerate": "none"}


def test_what_was_noted_before_is_read() -> None:
    before = {**plain(Stan(tail=5, iterations=60, meprop=MeProp(5, sparse_bias=True))), "max-iterations": 90}
    del before["stan-iterations"]
    assert stan_of(before) == Stan(tail=5, iterations=90, meprop=MeProp(5, sparse_bias=True))


def test_a_search_whose_tail_was_not_noted_goes_on() -> None:
    what, search = compose(tiny_problem.problem, max_resource=27, min_resource=9, stan=Stan(tail=5, iterations=27))
    before: dict[str, Any] = json.loads(json.dumps(search.identity(what)))
    assert before["stan-iterations"] == 27
    assert not search.extends({**before, "stan-iterations": 60}, what)
    del before["stan-iterations"]
    assert search.extends(before, what)


def test_a_plan_without_native_kernels_is_gone_on_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problem: Problem = tiny_problem.problem

    def decided(times: Any, stan: Stan, *_: Any) -> Plan:
        return Plan(replace(stan, rate=1.0, tolerance=0.5, plan=(), native=False), times, 1.0, {})

    monkeypatch.setattr(planning, "times_of", lambda *_, **__: ModelTimes((), 1.0, 1))
    monkeypatch.setattr(planning, "decide", decided)
    asked = ProblemObjective(problem, Stan(rate="auto"))
    begun, _ = asked.prepared(Conditions(max_resource=20, threads=1))
    kept = json.loads(json.dumps({**begun.identity, "threads": 1}))
    again, _ = asked.prepared(Conditions(max_resource=20, threads=1, begun=kept))
    assert again.identity == begun.identity
    for objective, start, stop in ((begun, 0, 5), (again, 5, 10)):
        segment = Segment(0, {}, start, stop, 0, tmp_path / "trial.pt", bracket=0, length=20)
        reached = objective.trainer(Place(threads=1)).train(segment, lambda: False, lambda iteration: None)
        assert reached.iterations == stop
    # And a final training is what the trials are: none is native.
    made: list[Stan | None] = []

    def turns(*_: Any, stan: Stan | None, **__: Any) -> Generator[None, None, Outcome]:
        made.append(stan)
        return reached
        yield

    monkeypatch.setattr("stantune.images.trainer.turns", turns)
    final = replace(segment, start=0, stop=20, finalist=0)
    again.trainer(Place(threads=1)).train(final, lambda: False, lambda iteration: None)
    assert made == [Stan(rate=1, native=False)]


def test_weights_under_meprop_are_no_exact_ones() -> None:
    sizes = {"max_resource": 27, "min_resource": 9, "final": "continue"}
    stan = Stan(rate=1, meprop=MeProp(5))
    said = r"`final`=continue takes .* no training of tiny is exact: meProp keeps 5 components of each gradient; give"
    with pytest.raises(UsageError, match=said):
        compose(tiny_problem.problem, stan=stan, **sizes)
    with pytest.raises(UsageError, match=said):
        compose(tiny_problem.problem, stan=replace(stan, rate=0.5), rates=(0.25, 1.0), **sizes)
    compose(tiny_problem.problem, stan=replace(stan, meprop=MeProp(0)), **sizes)
    space = Space({"lr": Float(0.1, 1)})
    with pytest.raises(UsageError, match="no training of trains is exact: meProp"):
        compose(lambda run: None, space, name="trains", minimize="loss", stan=stan, **sizes)
