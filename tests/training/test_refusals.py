"""What cannot be trained, or goes on from what is another training's, is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from stantune.errors import CheckpointError, UsageError
from stantune.images.problems import Problem, Splits, find
from stantune.images.solver import Solver
from stantune.outcome import Outcome
from stantune.space import Float, Space
from stantune.stan.config import Stan
from stantune.training.train import run
from stantune.training.trial import RateFrom


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (2, 3)])
def test_a_range_that_makes_no_sense_is_refused(quick: Any, start: int, stop: int) -> None:
    with pytest.raises(UsageError, match=f"cannot train from iteration {start} to {stop}"):
        quick(None, start, stop)


def test_a_checkpoint_beyond_the_end_is_refused(quick: Any, tmp_path: Path) -> None:
    quick(tmp_path / "t.pt", 0, 5)
    with pytest.raises(UsageError, match=r"t\.pt is at iteration 5, beyond 4"):
        quick(tmp_path / "t.pt", 0, 4)


def test_bad_use_is_refused_before_anything_is_trained(small: Callable[..., Splits]) -> None:
    problem = find("lenet")
    splits = small(problem)
    nothing = replace(splits, validation=splits.validation.take(0, 0))

    def never(iteration: int) -> None:
        raise AssertionError

    for setting, there, evaluate, message in (
        ({"lr": 6}, splits, (), "lr is 6, outside its range.*nearest valid value is 5"),
        ({"moment": 0.5}, splits, (), "no parameter 'moment'.*nearest is momentum"),
        ({}, nothing, ("validation",), "nothing to evaluate in 'validation'"),
        ({}, splits, ("test", "tests"), "nothing to evaluate in 'tests'"),
        ({}, splits, ("train",), "nothing to evaluate in 'train'"),
    ):
        with pytest.raises(UsageError, match=message):
            run(problem, setting, None, 0, 1, splits=there, evaluate=evaluate, watch=never)
    for stan, starts in ((None, (0, 5)), (Stan(rate="auto"), (0, 5)), (Stan(), (1, 5)), (Stan(), (0, 5, 5))):
        rates = [RateFrom(start, 0.5) for start in starts]
        with pytest.raises(UsageError, match=f"iterations {', '.join(map(str, starts))} on make no sense"):
            run(problem, {}, None, 0, 1, splits=splits, stan=stan, rates=rates, watch=never)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"stan": Stan()},
        {"setting": {"lr": 0.02}},
        {"batch_size": 5},
        {"images": 1999},
        {"problem": "another"},
    ],
)
def test_another_trials_checkpoint_is_refused(
    change: dict[str, Any], tmp_path: Path, small: Callable[..., Splits]
) -> None:
    def train(start: int, stop: int, **given: Any) -> Outcome:
        lenet = replace(find("lenet"), name=given.get("problem", "lenet"), batch_size=given.get("batch_size", 4))
        splits = small(lenet, given.get("images", 2000))
        more = {"seed": given.get("seed", 3), "stan": given.get("stan")}
        return run(lenet, given.get("setting", {}), tmp_path / "t.pt", start, stop, splits=splits, **more)

    train(0, 1)
    with pytest.raises(CheckpointError, match=r"t\.pt is another trial's"):
        train(1, 2, **change)
    assert train(1, 2).iterations == 2


@pytest.mark.filterwarnings("ignore::stantune.errors.NoEffectWarning")
def test_other_rates_are_another_trials_checkpoint(quick: Any, tmp_path: Path) -> None:
    checkpoint, rates = tmp_path / "t.pt", (RateFrom(0, 0.5), RateFrom(9, 1.0))
    quick(checkpoint, 0, 1, stan=Stan(), rates=rates)
    for others in ((), (RateFrom(0, 0.5), RateFrom(8, 1.0)), (RateFrom(0, 0.5), RateFrom(9, 0.25))):
        with pytest.raises(CheckpointError, match=r"t\.pt is another trial's"):
            quick(checkpoint, 1, 2, stan=Stan(), rates=others)
    assert quick(checkpoint, 1, 2, stan=Stan(), rates=rates).iterations == 2


def perceptron(hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def deeper() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_a_checkpoint_of_a_network_that_was_changed_since_is_refused(
    tmp_path: Path, small: Callable[..., Splits]
) -> None:
    problem = Problem(
        name="mine",
        network=perceptron,
        data="mnist",
        space=Space({"lr": Float(0, 1)}),
        solver=Solver(lr=0.1, momentum=0.5),
        iterations=10,
        batch_size=4,
    )
    splits = small(problem)
    run(problem, {}, tmp_path / "t.pt", 0, 1, splits=splits)
    for changed in (
        replace(problem, network=deeper),
        replace(problem, network=lambda: perceptron(6)),
        replace(problem, solver=Solver(kind="adam", lr=0.1)),
    ):
        with pytest.raises(CheckpointError, match=r"t\.pt does not fit the network or the optimizer"):
            run(changed, {}, tmp_path / "t.pt", 1, 2, splits=splits)
