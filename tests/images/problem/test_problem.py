"""A problem of the user's own: what makes no sense is refused, numbers are Python's own, and so may be its data."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stantune.errors import UsageError
from stantune.images.data import Dataset, Normalise, Split, hold_out
from stantune.images.problem.built_in import Problem
from stantune.images.solving.losses import LOSSES
from stantune.images.solving.solver import Solver
from stantune.parameters import Categorical, Float, Integer
from stantune.space import Space


def net(width: int = 8, depth: int = 1, *rest: int, **more: int) -> nn.Module:
    return nn.Linear(width, depth)


GOOD = Problem(
    name="good",
    network=net,
    data="mnist",
    space=Space({"width": Integer(1, 9), "lr": Float(0, 1), "momentum": Float(0, 1), "fc_l2": Float(0, 1)}),
    solver=Solver(lr=0.1),
    iterations=10,
)


def needs_width(width: int, depth: int = 1) -> nn.Module:
    return nn.Linear(width, depth)


def takes_momentum(width: int = 8, momentum: float = 0.1) -> nn.Module:
    return nn.Linear(width, 1)


MIXED = Categorical(("sgd", "adamw"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "`iterations`=0 is too small; give 1 or more"),
        ({"iterations": 60.5}, "`iterations`=60.5 is no whole number; give one, 1 or more"),
        ({"iterations": math.nan}, "`iterations`=nan is no whole number"),
        ({"iterations": "60"}, "`iterations`='60' is no whole number"),
        ({"iterations": True}, "`iterations`=True is no whole number"),
        ({"batch_size": -1}, "`batch_size`=-1 is too small"),
        ({"batch_size": 2.5}, "`batch_size`=2.5 is no whole number"),
        ({"validation": 0}, "`validation`=0 is too small; give 1 or more"),
        (
            {"validation": 60.0},
            "`validation`=60.0 is no share of the samples; give one above 0 and below 1, or a whole",
        ),
        ({"validation": "a fifth"}, "`validation`='a fifth' is no whole number"),
        ({"full_iterations": 0}, "`full_iterations`=0 is too small"),
        ({"course": [9]}, r"`course`=\[9\] is no whole number"),
        ({"hold_out": ["last"]}, r"`hold_out`=\['last'\] is unknown; give stratified or random or first or last"),
        ({"hold_out_seed": 1.5}, "`hold_out_seed`=1.5 is no whole number"),
        ({"label_smoothing": 1.5}, "`label_smoothing`=1.5 is no share; give a number from 0 to 1"),
        ({"label_smoothing": True}, "`label_smoothing`=True is no finite number"),
        ({"space": {"lr": Float(0, 1)}}, r"`space` is a dict; give Space\("),
        (
            {"space": Space({"label_smoothing": Float(0, 2)})},
            "from 0 to 2, and training takes numbers from 0 to 1",
        ),
        ({"solver": "adam"}, r"`solver` is a str; give Solver\(lr=0.1\)"),
        ({"normalise": None}, r"`normalise` is None; give Normalise\("),
        ({"recordable": "no"}, "`recordable` is a str; give True or False"),
        ({"augment": 5}, r"`augment` is an int; give a function \(images, ids, generator\) -> images, or None"),
        (
            {"augment": len},
            r"`augment`=<.*len> cannot be called as it is; give a function of \(images, ids, generator\)",
        ),
        ({"augment": lambda images, setting: images}, "`augment`=<function .*> cannot be called as it is"),
        ({"loss": len}, r"`loss`=<.*len> cannot be called as it is; give a function of \(outputs, targets\)"),
        ({"measure": len}, r"`measure`=<.*len> cannot be called as it is; give a function of \(outputs, targets\)"),
        ({"loss": None}, "`loss` is None; give a loss by name, or a function"),
        ({"measure": 5}, "`measure` is an int; give a measure by name, a Measure, or a function"),
        ({"stan_layers": "conv1"}, r"`stan_layers`='conv1' is no tuple of names; give one, such as \('conv\*',\)"),
        ({"data": ((1, 2), (3, 4))}, r"`data` is a tuple; give the name of a built-in data set, Dataset\(name, train="),
        ({"data": None}, "`data` is None; give the name of a built-in data set"),
        ({"data": lambda: None}, r"`data` is called with a directory, or None, .* as in def data\(root\)"),
        ({"data": Dataset}, "`data` is called with a directory"),
        ({"data": "mnits"}, "no data set 'mnits'.*'mnist'"),
        ({"space": Space({"widht": Integer(1, 9)})}, r"nothing takes the parameter 'widht'.* net\(\)"),
        ({"network": needs_width}, r"needs_width\(\) has no default for 'width'"),
        (
            {"network": nn.Linear(5, 1)},
            "network is a Linear, and each training calls it for a new network; give a func",
        ),
        ({"network": 5}, "network is a int"),
        ({"network": takes_momentum}, r"momentum is a keyword of takes_momentum\(\) and .* drive both; .*net_momentum"),
        ({"space": Space({"lr": Float(-1, 1)})}, "lr goes from -1 to 1, and training takes numbers 0 or more"),
        ({"space": Space({"fc_l2": Float(-1, 1)})}, "fc_l2 goes from -1 to 1"),
        ({"space": Space({"momentum": Categorical((0.9, "no"))})}, "momentum is one of 0.9, no, and training takes"),
        (
            {"space": Space({"beta1": Float(0.5, 1)}), "solver": Solver(lr=0.1, kind="adam")},
            "beta1 goes from 0.5 to 1, and training takes numbers from 0 up to, not including, 1",
        ),
        ({"solver": Solver(lr=0.1, kind="adamw")}, "the space has momentum, and adamw does not take it; .*when="),
        ({"space": Space({"optimizer": MIXED, "momentum": Float(0, 1)})}, "has momentum, and adamw does not take it"),
        ({"space": Space({"a.b_l2": Float(0, 1)}), "solver": Solver(lr=1, kind="rprop")}, "rprop does not take it"),
        ({"measure": "R2"}, "measure 'R2' is of numbers, and the targets of the loss 'cross entropy' are classes"),
        (
            {"measure": "accuracy", "loss": "mean squared error"},
            "measure 'accuracy' is of classes or labels, and the targets of the loss 'mean squared error' are numbers; "
            "give a measure of these .mean squared error, .*, or a loss of classes",
        ),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"problem 'good': .*{message}|{message}"):
        replace(GOOD, **change)


@pytest.mark.parametrize("name", [None, "", 5], ids=["None", "empty", "a number"])
def test_a_problem_has_a_name(name: Any) -> None:
    with pytest.raises(UsageError, match=r"a problem's `name`=.* is no text"):
        replace(GOOD, name=name)


def test_numbers_of_a_problem_are_held_as_pythons_own() -> None:
    many = {"iterations": np.int64(60), "batch_size": 20.0, "course": np.uint8(3), "full_iterations": 70.0}
    made = replace(GOOD, **many, validation=np.float32(0.25), stan_layers=["conv*"])
    held = (made.iterations, made.batch_size, made.course, made.full_iterations, made.validation, made.stan_layers)
    assert repr(held) == "(60, 20, 3, 70, 0.25, ('conv*',))"
    assert replace(GOOD, validation=np.int64(7)).validation == 7


def test_a_parameter_of_some_optimizers_depends_on_the_optimizer() -> None:
    space = Space({"optimizer": MIXED, "momentum": Float(0, 1)}, when={"momentum": {"optimizer": "sgd"}})
    assert replace(GOOD, space=space).space is space
    # The solver's own counts where the setting has none.
    space = Space({"width": Integer(1, 9), "optimizer": MIXED}, when={"optimizer": {"width": 3}})
    replace(GOOD, space=space)


def test_a_problem_of_data_of_the_users_own(tmp_path: Path) -> None:
    asked: list[Path | None] = []

    def data(root: Path | None) -> Dataset:
        asked.append(root)
        images = torch.arange(30, dtype=torch.uint8).reshape(30, 1, 1, 1)
        split = Split(images, torch.arange(30) % 3, torch.arange(30))
        return Dataset("own", split.take(0, 20), split.take(20, 30), 3)

    def fitting(width: int = 3) -> nn.Module:
        return nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(1, width)))

    problem = replace(
        GOOD, network=fitting, data=data, validation=5, hold_out="last", normalise=Normalise(mean="channel")
    )
    splits = problem.load(tmp_path)
    assert asked == [tmp_path]
    assert (len(splits.train), len(splits.validation), len(splits.test), splits.classes) == (15, 5, 10, 3)
    assert splits.normaliser.mean is not None
    assert splits.normaliser.mean.tolist() == [7.0]
    with pytest.raises(UsageError, match="cannot hold out 20 of 20"):
        replace(problem, validation=20).load()


def own(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.reshape(len(outputs), -1)[:, 0] - targets).square().mean()


def made_up(targets: np.ndarray, outputs: int | None = None, **more: Any) -> Problem:
    """Return a problem with these targets, of which 200 are held out; its network makes (B,), or (B, outputs)."""
    inputs = np.random.default_rng(0).normal(size=(len(targets), 4)).astype(np.float32)

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(4, outputs or 1), nn.Identity() if outputs else nn.Flatten(0))

    data = Dataset("made up", (inputs, targets))
    return Problem("made up", network, data, Space({}), Solver(lr=0.1), 9, validation=200, **more)


SPREAD = np.random.default_rng(1).permutation(20_000)[:1000]


@pytest.mark.parametrize(
    "judged",
    [{"loss": "mean squared error"}, {"loss": "huber", "measure": "R2"}, {"loss": own}, {"loss": own, "measure": "R2"}],
    ids=["by the loss", "by both", "by how many", "by the measure"],
)
def test_whole_numbers_that_are_no_classes_are_held_out_as_others_are(judged: dict[str, Any]) -> None:
    """They were by class: nearly each is one of its own, with no share, and the smallest ones were held out."""
    whole, others = made_up(SPREAD, **judged), made_up(SPREAD.astype(np.float32), **judged)
    held = whole.load().validation
    assert torch.equal(held.ids, others.load().validation.ids)
    assert int(held.targets.max()) > 19_000
    # Searches that were begun with the others are known as such; those of other targets are what they were.
    assert (whole.identity, others.identity) == ({"hold_out": ["random", 0]}, {"hold_out": ["stratified", 0]})
    asked = replace(whole, hold_out="last")
    assert (asked.load().validation.ids.tolist(), asked.identity) == (list(range(800, 1000)), {})


FEW = np.random.default_rng(2).integers(0, 7, 1000)


@pytest.mark.parametrize(
    "problem",
    [
        made_up(FEW, 7),
        made_up(SPREAD // 20, 1000),
        made_up(FEW % 2, loss="binary cross entropy", measure="error"),
        made_up(SPREAD // 20, 1000, loss=own, measure="accuracy"),
        made_up(FEW, 7, loss=own),
        made_up(FEW % 2 * 2 - 1, loss=own),
    ],
    ids=["classes", "many classes", "labels", "by the measure", "by how few", "signs"],
)
def test_classes_have_their_shares_under_any_loss(problem: Problem) -> None:
    assert isinstance(problem.data, Dataset)
    _, held = hold_out(problem.data.train, 200, "stratified", 0)
    assert torch.equal(problem.load().validation.ids, held.ids)
    assert problem.identity == {"hold_out": ["stratified", 0]}


def test_built_in_classes_are_numbers_only_where_they_are_taken_for_some() -> None:
    for loss, how in (("cross entropy", "stratified"), ("mean squared error", "random"), (own, "stratified")):
        assert replace(GOOD, loss=loss).identity == {"hold_out": [how, 0]}


def test_what_a_network_that_knows_nothing_has_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training asks for it, and of images as targets it takes a pass over all of them."""
    asked = []

    def chance(targets: torch.Tensor, classes: int | None) -> float:
        asked.append(len(targets))
        return float(len(targets))

    monkeypatch.setitem(LOSSES, "huber", replace(LOSSES["huber"], chance=chance))
    data = Dataset("numbers", (torch.randn(20, 3), torch.randn(20, 1)))
    problem = Problem(
        "numbers", lambda: nn.Linear(3, 1), data, Space({}), Solver(lr=0.1), 9, loss="huber", validation=4
    )
    splits, others = problem.load(None), problem.load(None)
    assert [problem.chance_loss(splits) for _ in range(3)] == [16.0] * 3
    assert asked == [16]
    assert replace(problem, loss="mean squared error").chance_loss(splits) != 16.0
    assert problem.chance_loss(others) == 16.0
    assert asked == [16, 16]
