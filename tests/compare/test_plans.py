"""What is measured before a comparison: the predicted speed-up, the plan of `auto`, the memory's budget."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import stantune.compare.comparison
import stantune.compare.plans
from stantune.images.problem.built_in import Problem, Splits
from stantune.stan.config import LayerPlan, Memo, Stan
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes
from stantune.training import planning

TIMES = ModelTimes(
    (
        LayerTimes(
            "0",
            t_f=0.002,
            t_b=0.004,
            t_e=0.003,
            patterns=tuple(
                PatternTimes(name, saved / 3, saved * 2 / 3, error)
                for name, saved, error in (("rows", 0.003, 0.2), ("columns", 0.003, 0.3), ("blocks", 0.0045, 0.4))
            ),
        ),
    ),
    step_seconds=0.009,
    rounds=1,
)


@pytest.fixture
def measured(bench: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replace the measurement by TIMES; what it was asked for is returned."""
    asked: list[tuple[str, ...]] = []

    def times_of(problem: Problem, setting: Any, layers: tuple[str, ...], splits: Splits, device: str) -> ModelTimes:
        assert (problem, setting, device) == (bench.problem, {}, "cpu")
        asked.append(layers)
        return TIMES

    monkeypatch.setattr(stantune.compare.plans, "times_of", times_of)
    return asked


def test_the_speedup_is_predicted_for_the_whole_training(bench: Any, measured: list[tuple[str, ...]]) -> None:
    half, quarter = bench.compared(seeds=1).arms
    # Z = 3: of 40 iterations 30 are reduced and take 6 ms, 10 take 9 ms.
    assert half.predicted_speedup == pytest.approx(40 * 9 / (30 * 6 + 10 * 9))
    # p_t = 7: 33 iterations take 4.5 ms.
    assert quarter.predicted_speedup == pytest.approx(40 * 9 / (33 * 4.5 + 7 * 9))
    assert (half.stan, quarter.stan) == tuple(bench.stans.values())
    assert measured == [("*",)], "once for all"


def test_layers_that_seem_to_take_longer_than_their_iteration_are_fitted_into_it(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stantune.compare.plans, "times_of", lambda *_, **__: TIMES._replace(step_seconds=0.003))
    arm = bench.compared(seeds=1, iterations=4, stans={"x": Stan(rate=0.5, period=3)}).arms[0]
    # A layer that is all of the iteration, of which its reduced ones save half: 3 of 4 are reduced.
    assert arm.predicted_speedup == pytest.approx(4 / 2.5)


@pytest.mark.parametrize("pays", [True, False])
def test_auto_is_what_a_training_plans(bench: Any, monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    # What the layers' times promise, whole iterations may not keep.
    cycle = (0.0095, 0.004) if pays else (0.012, 0.0095)
    monkeypatch.setattr(planning, "_cycle_seconds", lambda *_: cycle)
    for place in (planning, stantune.compare.plans):
        monkeypatch.setattr(place, "times_of", lambda *_, **__: TIMES)
    auto = Stan(rate="auto")
    found = stantune.compare.plans.plan(bench.problem, {}, {"auto": auto}, 40, bench.splits)["auto"]
    assert found.stan == planning.planned_stan(auto, bench.problem, {}, bench.splits, None, iterations=40)
    assert bool(found.stan.plan) == pays
    # Z = 19.
    assert found.speedup == (pytest.approx(40 * 9 / (2 * 9.5 + 38 * 4)) if pays else 1.0)


def test_auto_is_planned_once(bench: Any, measured: list[tuple[str, ...]], tmp_path: Path) -> None:
    stans = {"auto": Stan(rate="auto", pretrain=2)}
    lines: list[str] = []
    arm = bench.compared(seeds=1, stans=stans, directory=tmp_path, say=lines.append).arms[0]
    assert arm.asked.rate == "auto"
    assert arm.stan.plan == (LayerPlan("0", ("rows", "columns", "blocks")),)
    assert (arm.stan.rate, arm.stan.pretrain) == (0.25, 2)
    assert lines == [f"auto: 0 rows or columns or blocks; Z = {arm.stan.period}"]
    assert arm.predicted_speedup is not None
    again = bench.compared(seeds=2, stans=stans, directory=tmp_path).arms[0]
    assert (again.stan, again.predicted_speedup, len(measured)) == (arm.stan, arm.predicted_speedup, 1)
    assert again.trainings[:1] == arm.trainings
    assert again.trainings[1].test_error == bench.alone(1, again.stan)
    file = tmp_path / "plans.json"
    record = json.loads(file.read_text())
    assert record["content"] == {
        "auto": {"plan": arm.stan.planned, "budget": None, "speedup": pytest.approx(arm.predicted_speedup)}
    }
    # As it was kept when a record held all of STAN's settings.
    record["content"]["auto"] = {"stan": asdict(arm.stan), "speedup": arm.predicted_speedup}
    file.write_text(json.dumps(record))
    assert bench.compared(seeds=1, stans=stans, directory=tmp_path).arms[0] == arm


def test_where_nothing_is_predicted_auto_is_planned_all_the_same(
    bench: Any, measured: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As on a GPU; a CPU computes what it always does.
    monkeypatch.setattr(stantune.compare.comparison, "precision_on", lambda precision, device: precision)
    stans = {"auto": Stan(rate="auto", layers=("0",)), "0.5": bench.stans["0.5"]}
    given: dict[str, Any] = {"seeds": 1, "stans": stans, "precision": "tf32", "directory": tmp_path}
    arms = bench.compared(**given).arms
    assert measured == [("0",)]
    assert arms[0].stan.plan == (LayerPlan("0", ("rows", "columns", "blocks")),)
    assert arms[1].stan == stans["0.5"]
    assert [arm.predicted_speedup for arm in arms] == [None, None]
    assert bench.compared(**given).arms == arms
    assert len(measured) == 1
    # As such a record was before: nothing could be trained with it.
    file = tmp_path / "plans.json"
    record = json.loads(file.read_text())
    record["content"]["auto"]["plan"] = None
    file.write_text(json.dumps(record))
    (tmp_path / "seed-0.json").unlink()
    assert bench.compared(**given).arms[0].stan.plan == arms[0].stan.plan
    assert len(measured) == 2


@pytest.mark.usefixtures("measured", "errors_are_digests")
def test_memo_in_turns(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1_000_000])
    monkeypatch.setattr(stantune.compare.plans, "free_memory", lambda: next(free))
    memo = Memo(samples=60, epoch=7)
    stans = {
        "0.5": Stan(memo=memo, period=2),
        "0.25": Stan(rate=0.25, memo=memo, period=2),
        "own": Stan(memo=replace(memo, budget=123_456), period=2),
        "none": bench.stans["0.5"],
    }
    lines: list[str] = []
    arms = bench.compared(seeds=1, stans=stans, directory=tmp_path, say=lines.append).arms
    # 4 channels of 64 entries in bfloat16, for 60 samples: 30.7 kB, and what tells samples apart.
    assert lines == [f"{name}: it holds 0.0 MB of memory" for name in ("0.5", "0.25", "own")]
    for arm in arms:
        assert arm.trainings[0].test_error == bench.alone(0, arm.stan)
        assert arm.trainings[0].kept == arm.asked.rate
        assert (arm.predicted_speedup is None) == (arm.asked.memo is not None)
    # All are in memory at once: two share what one alone might take.
    budgets = [None if arm.stan.memo is None else arm.stan.memo.budget for arm in arms]
    assert budgets == [250_000, 250_000, 123_456, None]
    assert [arm.stan for arm in arms] == [
        stan if stan.memo is None else replace(stan, memo=replace(stan.memo, budget=budget))
        for stan, budget in zip(stans.values(), budgets, strict=True)
    ]
    # The memory that is free another time gives no other layers one.
    assert bench.compared(seeds=1, stans=stans, directory=tmp_path).arms == arms
