"""What a comparison tells: speed-up, difference of the errors, and what fits into the same time."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

import stantune.compare.comparison
from stantune.compare.comparison import (
    Spread,
    error_difference,
    scaled,
    seconds_per_iteration,
    speedup,
    speedup_deviation,
    spread,
)
from stantune.compare.turns import Training
from stantune.images.problem.built_in import Problem
from stantune.images.solving.measures import MEASURES
from stantune.images.solving.solver import Fixed, MultiStep, Solver
from stantune.seeds import derive
from stantune.training.train import run

ERROR = MEASURES["error"].metric_on("test")


def training(seconds: float, error: float | None, iterations: int = 10) -> Training:
    return Training(iterations, seconds, 1.0, error, None if error is not None else iterations)


def test_numbers() -> None:
    exact = [training(30, 20.0), training(60, 22.0), training(33, 21.0), training(1, None, 2)]
    other = [training(20, 20.5), training(30, 22.1), training(7, None, 4), training(20, 24.0)]
    # Of the first two seeds, which both were trained to the end: 90 s and 50 s, 1.5 and 2 times faster.
    assert speedup(exact, other) == 1.8
    assert speedup_deviation(exact, other) == pytest.approx(math.sqrt(0.125))
    difference = error_difference(exact, other, ERROR)
    assert difference.mean == pytest.approx(0.3)
    assert difference.deviation == pytest.approx(math.sqrt(2 * 0.2**2))
    assert seconds_per_iteration(exact) == 124 / 32
    assert seconds_per_iteration([training(0, None, 0)]) is None
    assert speedup(exact[:1], other[:1]) == 1.5
    assert speedup_deviation(exact[:1], other[:1]) is None
    assert speedup(exact[2:], other[2:]) is None
    assert error_difference(exact[:1], other[:1], ERROR) == Spread(0.5, None)
    assert error_difference(exact[:1], other[:1], replace(ERROR, direction="maximize")) == Spread(-0.5, None)
    assert spread([]) == Spread(None, None)
    assert spread([1.0, 2.0, 6.0]) == Spread(3.0, math.sqrt(7))


@pytest.mark.usefixtures("own_clock")
def test_equal_time_fits_into_stans_time(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, Any, int]] = []

    def train(problem: Problem, setting: Any, checkpoint: None, start: int, stop: int, **rest: Any) -> Any:
        trained.append((stop, problem.solver.policy, rest["seed"]))
        return run(problem, setting, checkpoint, start, stop, **rest)

    monkeypatch.setattr(stantune.compare.comparison, "run", train)
    comparison = bench.compared(equal_time=True)
    half, quarter = comparison.arms
    assert half.equal_time is not None
    assert quarter.equal_time is not None
    # 3 s and 2 s an iteration, 3 s and 1 s: two thirds and one third of 40 iterations fit. Of the milestone at 30 there
    # remain 30 · 27/40 and 30 · 13/40, which are reached in iterations 21 and 10.
    assert (speedup(comparison.exact, half.trainings), half.equal_time.iterations) == (1.5, 27)
    assert (speedup(comparison.exact, quarter.trainings), quarter.equal_time.iterations) == (3.0, 13)
    seeds = [derive("train", seed) for seed in (0, 1)]
    assert trained == [
        *((27, MultiStep((21,), 0.5), seed) for seed in seeds),
        *((13, MultiStep((10,), 0.5), seed) for seed in seeds),
    ]
    assert [training.iterations for training in quarter.equal_time.trainings] == [13, 13]
    assert bench.compared(seeds=1).arms[0].equal_time is None, "only where it is asked for"


def test_scaling_a_problem_changes_its_policy_alone(bench: Any) -> None:
    problem = scaled(bench.problem, Fraction(1, 2))
    assert problem == replace(bench.problem, solver=replace(bench.problem.solver, policy=MultiStep((15,), 0.5)))
    assert scaled(replace(bench.problem, solver=Solver(lr=1.0)), Fraction(2)).solver.policy == Fixed()
