"""What cannot be trained, or goes on from what is another training's, is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stantune.errors import AheadCheckpointError, CheckpointError, UsageError
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.images.solving.solver import Solver
from stantune.outcome import Outcome
from stantune.parameters import Float
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.training import checkpoint as checkpoints
from stantune.training.train import run


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (2, 3)])
def test_a_range_that_makes_no_sense_is_refused(quick: Any, start: int, stop: int) -> None:
    with pytest.raises(UsageError, match=f"cannot train from iteration {start} to {stop}"):
        quick(None, start, stop)


def test_a_checkpoint_beyond_the_end_is_refused(quick: Any, tmp_path: Path) -> None:
    quick(tmp_path / "t.pt", 0, 5)
    with pytest.raises(AheadCheckpointError, match=r"t\.pt is at iteration 5, beyond 4"):
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
    checkpoint, rates = tmp_path / "t.pt", ((0, 0.5), (9, 1.0))
    quick(checkpoint, 0, 1, stan=Stan(rate=rates))
    for others in (0.5, ((0, 0.5), (8, 1.0)), ((0, 0.5), (9, 0.25))):
        with pytest.raises(CheckpointError, match=r"t\.pt is another trial's"):
            quick(checkpoint, 1, 2, stan=Stan(rate=others))
    assert quick(checkpoint, 1, 2, stan=Stan(rate=rates)).iterations == 2


# What a training of several rates was known by when they were no part of Stan: its files go on.
KNOWN_BY = (
    '{"batch_size": 10, "images": 300, "problem": "tiny", "rates": [[0, 0.25], [20, 0.5], [40, 1.0]], "seed": 3, '
    '"setting": {"lr": 0.01}, "stan": {"iterations": null, "layers": ["*"], "linear": [], "memo": null, '
    '"meprop": null, "pattern": "auto", "period": 3, "plan": null, "pretrain": 0, "rate": 0.25, "seed": 7, "tail": 0, '
    '"tolerance": null}}'
)


def test_a_training_of_several_rates_goes_on_from_a_file_of_before(tmp_path: Path) -> None:
    problem = find(f"{Path(__file__).parents[1] / 'tiny_problem.py'}:problem")
    splits, checkpoint = replace(problem, validation=1).load(full=True), tmp_path / "t.pt"
    stan = Stan(rate=((0, 0.25), (20, 0.5), (40, 1)), period=3, seed=7)
    whole = run(problem, {"lr": 0.01}, tmp_path / "whole.pt", 0, 50, splits=splits, seed=3, stan=stan, evaluate=())
    run(problem, {"lr": 0.01}, checkpoint, 0, 45, splits=splits, seed=3, stan=stan, evaluate=())
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["identity"] == KNOWN_BY
    # Its cost had no time of coordination then.
    state = saved["state"] | {"cost": dict(list(saved["state"]["cost"].items())[:5])}
    checkpoints.save(checkpoint, KNOWN_BY, state)
    cut = run(problem, {"lr": 0.01}, checkpoint, 0, 50, splits=splits, seed=3, stan=stan, evaluate=())
    assert (cut.cost.exact, cut.cost.reduced) == (whole.cost.exact, whole.cost.reduced)
    ends = [torch.load(path, weights_only=True)["state"]["model"] for path in (checkpoint, tmp_path / "whole.pt")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


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
