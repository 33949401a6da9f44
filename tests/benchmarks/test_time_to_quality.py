"""benchmarks/searches/time_to_quality.py: its figures by hand, what is run when, and each side on a tiny problem."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.searches import optuna_side, ours_side
from benchmarks.searches import quality_results as results
from benchmarks.searches import time_to_quality as quality
from stantune.search.plan.hyperband import plan

HERE = Path(__file__).parent
TINY = f"{HERE.parent / 'tiny_problem.py'}:problem"


def found(*points: tuple[float, float], seconds: float = 100.0, test: float | None = 20.0) -> Any:
    return results.Found(list(points), seconds, 5.0, 17, {"lr": 0.1}, test)


def test_figures_by_hand() -> None:
    run = found((10, 50), (20, 30), (25, 40), (60, 20))
    assert results.best(run) == 20
    assert [results.reached(run, wanted) for wanted in (60, 50, 35, 20)] == [10, 10, 20, 60]
    assert results.reached(run, 19.9) == float("inf")
    assert [results.best_at(run, at) for at in (10, 19, 30, 99)] == [50, 50, 30, 20]
    assert results.best_at(run, 9) != results.best_at(run, 9), "not a number"
    assert results.quartiles([4, 1, 2, 3, 5], ".0f") == "3 (2 … 4)"
    assert results.quartiles([], ".0f") == "–"


def test_tables_by_hand() -> None:
    sides = {
        "exact": [found((80, 20), seconds=100, test=21.0), found((90, 30), seconds=100, test=None)],
        "optuna": [found((60, 22), seconds=100, test=23.0), found((90, 25), seconds=100, test=26.0)],
        "stan": [found((20, 22), seconds=50, test=21.5), found((30, 31), seconds=25, test=31.0)],
    }
    told = results.tables(sides)
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in told.splitlines()}
    assert (
        "exact",
        "100 (100 … 100)",
        "5 (5 … 5)",
        "17 (17 … 17)",
        "25.00 (22.50 … 27.50)",
        "21.00 (21.00 … 21.00)",
        "21.00",
    ) in rows
    # Against exact: 2 and 4 times faster, 105 / 55 and 105 / 30 with the final training; one pair has test errors.
    assert ("stan", "3.00 (2.50 … 3.50)", "2.70 (2.31 … 3.10)", "+0.50") in rows
    # Against Optuna: 60 / 20, and never.
    assert ("stan", "1.50 (0.75 … 2.25)", "1 of 2", "+1.75") in rows
    assert ("exact", "0.38 (0.19 … 0.56)", "1 of 2", "-2.00") in rows


def test_drawing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sides = {
        "exact": [found((80, 20)), found((90, 30), (95, 10))],
        "stan": [found((20, 22), seconds=50), found((30, 31), seconds=25)],
    }
    results.draw(tmp_path / "x.png", "title", sides)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_run_when(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[tuple[Any, ...]] = []
    cut_at = 6

    def ours(searched: Any, workers: int) -> Any:
        if len(done) == cut_at:
            raise KeyboardInterrupt
        objective, settings = searched
        rate = None if objective.stan is None else objective.stan.rate
        side = "stan:auto" if settings.rates else {None: "exact", 1: "native", 0.5: "stan"}[rate]
        done.append((settings.seed, side))
        return found((10, 50), seconds=70.0 + settings.seed)

    def optuna(problem: str, iterations: int, seed: int, workers: int, budget: float, reports: str) -> Any:
        done.append((seed, "optuna", budget, reports))
        return found((10, 50), seconds=budget)

    monkeypatch.setattr(quality, "search_ours", ours)
    monkeypatch.setattr(quality, "search_optuna", optuna)
    keep, text = tmp_path / "keep.json", tmp_path / "table.md"
    typed = ["time_to_quality.py", "--problem", "lenet", "--seeds", "2", "--keep", str(keep), "--table", str(text)]
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(KeyboardInterrupt):
        quality.main()
    assert len(json.loads(keep.read_text())) == 6
    cut_at = -1
    quality.main()
    # By seed, and Optuna has the time of exact with its seed; nothing twice.
    assert done == [
        *((0, "exact"), (0, "optuna", 70.0, "all"), (0, "stan"), (0, "stan:auto")),
        *((1, "exact"), (1, "optuna", 71.0, "all"), (1, "stan"), (1, "stan:auto")),
    ]
    assert "| stan:auto |" in text.read_text()
    more = ["--sides", "exact", "optuna", "stan:0.25,0.5,1", "native", "--reports", "rungs"]
    monkeypatch.setattr(sys, "argv", [*typed, *more])
    quality.main()
    # What stan:auto stands for is known; Optuna with other reports is another side.
    assert done[8:] == [(0, "optuna", 70.0, "rungs"), (0, "native"), (1, "optuna", 71.0, "rungs"), (1, "native")]


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (("optuna", "exact"), "name exact before it"),
        (("exact", "stan:0.3,1"), "rate=0.3"),
        (("exact", "fast"), "there is no side fast: there are exact, native"),
        (("stan:auto:1",), "stan:auto:1"),
    ],
)
def test_bad_use(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sides: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["time_to_quality.py", "--sides", *sides])
    with pytest.raises(SystemExit):
        quality.main()
    assert said in capsys.readouterr().err


def test_our_side(monkeypatch: pytest.MonkeyPatch) -> None:
    # The default is no less than 25, which leaves so short a training but one rung.
    monkeypatch.setattr(ours_side, "default_min_resource", lambda maximum, eta: 6)
    began = time.perf_counter()
    run = ours_side.search_ours(ours_side.searched_by(TINY, 60, 0, "stan:auto", 2), 1)
    took = time.perf_counter() - began
    planned = plan(60, 6, 3)
    assert run.trials == sum(bracket.rungs[0].trials for bracket in planned) == 17
    assert 10 <= len(run.points) <= sum(rung.trials for bracket in planned for rung in bracket.rungs)
    assert [seconds for seconds, _ in run.points] == sorted(seconds for seconds, _ in run.points)
    assert 0 < run.points[0][0] <= run.seconds < run.seconds + run.final_seconds < took
    assert run.test_error is not None


def test_optuna_s_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import optuna

    # A clock by which every iteration takes a hundredth of a second.
    ticks = itertools.count()
    monkeypatch.setattr(optuna_side, "time", types.SimpleNamespace(time=lambda: next(ticks) / 100))

    url = f"sqlite:///{tmp_path / 'study.db'}"
    order = optuna_side.OptunaOrder(TINY, 60, 0, url, 0.0, 4.0, 4.0, "all")
    optuna.create_study(storage=url, study_name=order.study)
    threads = torch.get_num_threads()
    try:
        reported, started = optuna_side.optimize(order, 0)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    trials = optuna.load_study(study_name=order.study, storage=url).trials
    assert not started, "TPE's ten trials of every bracket take longer"
    # The last one was cut.
    assert 5 < len(trials) < 50
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    # Reported at 20, 40 and 60 iterations, the same in the study and here.
    steps = {step for trial in trials for step in trial.intermediate_values}
    assert steps == {20, 40, 60}
    in_study = sorted(error for trial in trials for error in trial.intermediate_values.values())
    assert sorted(error for _, error, _ in reported) == in_study
    assert all(seconds <= 4.0 for seconds, _, _ in reported)
    assert all(0 <= error <= 100 for _, error, _ in reported)


def test_where_optuna_s_trials_are_evaluated() -> None:
    order = optuna_side.OptunaOrder("cq", 4000, 0, "", 0.0, 0.0, 0.0, "rungs")
    assert [done for done in range(1, 4001) if order.is_reported(done)] == [49, 147, 441, 1323, 3969, 4000]
    every = optuna_side.OptunaOrder("cq", 4000, 0, "", 0.0, 0.0, 0.0, "all")
    assert [done for done in range(1, 4001) if every.is_reported(done)] == [*range(49, 4000, 49), 4000]


def test_sides_are_those_of_the_command() -> None:
    def stan(side: str) -> Any:
        return quality.searched_by("cq", 4000, 2, side).objective.stan

    def settings(side: str) -> Any:
        return quality.searched_by("cq", 4000, 2, side).settings

    assert stan("exact") is None
    assert (stan("native").rate, stan("stan").rate) == (1, 0.5)
    assert settings("stan:auto").rates == (0.25, 0.5, 1.0)
    assert (stan("stan").layers, stan("stan:auto").layers) == (("conv2",), ("*",))
    # The same brackets and seeds on every side.
    assert len({settings(side).plan() for side in ("exact", "native", "stan", "stan:auto")}) == 1
    assert len({settings(side).trial_seed(5) for side in ("exact", "native", "stan", "stan:auto")}) == 1
    options = argparse.Namespace(problem="cq", reports="all", finalists=1)
    assert quality._name(options, 4000, "stan:auto") == "stan:0.25,0.5,1/9@*"
    options.finalists = 2
    assert quality._name(options, 4000, "exact") == "exact, 2 finalists"
    assert quality._name(options, 4000, "optuna") == "optuna, reports all"
    assert quality.searched_by("cq", 4000, 2, "stan", 2).settings.finalists == 2
