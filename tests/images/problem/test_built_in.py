"""The built-in problems against the source's tables, and their options."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stantune.errors import UsageError
from stantune.images.data import Dataset
from stantune.images.problem.built_in import BUILT_IN, find, options_of
from stantune.parameters import Categorical, Float, Integer

# Tables 1 to 5 of the source, as printed: (scale, min, max).
LOG = ("log", 5e-5, 5)
TABLES: dict[str, dict[str, tuple[str, float, float]]] = {
    "lenet": {"lr": LOG, "conv1_l2": LOG, "conv2_l2": LOG, "momentum": ("log", 0.001, 0.99)},
    "cq": {"lr": LOG, "conv1_l2": LOG, "conv2_l2": LOG, "conv3_l2": LOG, "fc1_l2": LOG, "fc2_l2": LOG},
    "alexlrn": {
        "lr": LOG,
        "conv1_l2": LOG,
        "conv2_l2": LOG,
        "conv3_l2": LOG,
        "fc1_l2": LOG,
        "lrn_scale": ("log", 5e-6, 5),
        "lrn_power": ("linear", 0.01, 3),
    },
    "alexbn": {"lr": LOG, "momentum": LOG, "conv1_l2": LOG, "conv2_l2": LOG, "conv3_l2": LOG, "fc1_l2": LOG},
    "mlp": {
        "hidden": ("integer linear", 100, 8192),
        "dropout": ("linear", 0, 0.999),
        "top_k": ("integer linear", 0, 100),
    },
}
# Data set, N, iterations of a training on all images.
LENGTHS = {
    "lenet": ("mnist", 10_000, None),
    "cq": ("cifar10", 4_000, 5_000),
    "alexlrn": ("cifar10", 60_000, 70_000),
    "alexbn": ("cifar10", 60_000, None),
    "mlp": ("mnist", 20 * 50_000 // 100, 20 * 60_000 // 100),
}


def as_printed(parameter: Float | Integer | Categorical) -> tuple[str, float, float]:
    assert isinstance(parameter, Float | Integer)
    scale = "log" if parameter.log else "linear"
    return (f"integer {scale}" if isinstance(parameter, Integer) else scale), parameter.low, parameter.high


def test_the_spaces_are_those_of_the_source() -> None:
    found = {
        name: {key: as_printed(value) for key, value in problem.space.items()} for name, problem in BUILT_IN.items()
    }
    assert found.keys() - TABLES.keys() == {"meprop"}
    assert {name: found[name] for name in TABLES} == TABLES


@pytest.mark.parametrize("name", LENGTHS)
def test_data_and_lengths_are_those_of_the_source(name: str) -> None:
    problem = find(name)
    assert (problem.name, problem.batch_size, problem.validation) == (name, 100, 10_000)
    assert (problem.data, problem.iterations, problem.full_iterations) == LENGTHS[name]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_every_corner_of_a_space_makes_a_network_and_an_optimizer(name: str, place: float) -> None:
    problem = find(name)
    setting: dict[str, Any] = {}
    for key, (scale, low, high) in TABLES[name].items():
        value = low + place * (high - low)
        setting[key] = int(value) if scale.startswith("integer") else value
    model = problem.build(problem.space.check(setting, complete=True))
    optimizer = problem.solver.optimizer(model, setting)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for key in setting:
        if key.endswith("_l2"):
            assert decays[id(model.get_submodule(key.removesuffix("_l2")).weight)] == setting[key]
    channels, side = (1, 28) if problem.data == "mnist" else (3, 32)
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 10)


def test_the_settings_reach_the_network() -> None:
    model = find("mlp").build({"hidden": 123, "dropout": 0.25, "top_k": 7})
    assert (model.fc1.out_features, model.dropout1.p, model.fc1.top_k) == (123, 0.25, 7)
    model = find("alexlrn").build({"lr": 0.1, "lrn_scale": 0.5, "lrn_power": 2.0})
    assert [(module.scale, module.power) for module in (model.norm1, model.norm2)] == [(0.5, 2.0)] * 2


@pytest.mark.parametrize("full", [False, True])
def test_splits_are_those_of_the_study(full: bool, data_dir: Path, cifar10: Dataset) -> None:
    splits = find("cq").load(data_dir, full=full)
    held_out = 0 if full else 10_000
    assert len(splits.train) == 50_000 - held_out
    assert splits.validation.ids.tolist() == list(range(50_000 - held_out, 50_000))
    assert torch.equal(splits.test.images, cifar10.test.images)
    assert splits.classes == 10
    # The mean image is that of the images trained on: the validation images have no part in it.
    mean = cifar10.train.images[: 50_000 - held_out].double().mean(0)
    assert splits.normaliser.mean is not None
    torch.testing.assert_close(splits.normaliser.mean.double(), mean, rtol=1e-6, atol=1e-5)


def test_meprop_trains_what_its_authors_do(data_dir: Path) -> None:
    problem = find("meprop")
    splits = problem.load(data_dir)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (55_000, 5_000, 10_000)
    assert splits.validation.ids.tolist() == list(range(5_000))
    assert (problem.batch_size, problem.iterations) == (100, 20 * 55_000 // 100)
    # The loss is summed and the measure an error.
    scores, targets = torch.randn(8, 10), torch.arange(8)
    wanted = -scores.log_softmax(1)[range(8), range(8)].sum()
    torch.testing.assert_close(problem.criterion({})(scores, targets), wanted)
    assert problem.metric.name == "validation error"


OPTIONS = "activation=sigmoid,order=caffe"


def test_options_make_a_problem_of_another_name() -> None:
    problem = find("alexbn:order=caffe,activation=sigmoid")
    assert problem is find(f"alexbn:{OPTIONS}")
    assert problem.name == f"alexbn:{OPTIONS}"
    assert replace(problem, name="alexbn", network=find("alexbn").network) == find("alexbn")
    kinds = [type(layer).__name__ for layer in problem.build({})][:4]
    assert kinds == ["Conv2d", "MaxPool2d", "CaffeBatchNorm2d", "Sigmoid"]
    assert find("alexbn:activation=relu,order=source") is find("alexbn")
    network = find("meprop:unified=True,dropout=0.25").build({"hidden": 20, "hidden_layers": 1})
    assert (network.fc1.unified, network.fc1.sparse_bias, network.dropout1.p) == (True, False, 0.25)
    assert options_of(find("mlp")) == {"unified": False, "sparse_bias": False}


def test_options_draw_nothing_from_the_random_state() -> None:
    before = torch.random.get_rng_state()
    find("mlp:unified=true,sparse_bias=true")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet:width=3", "lenet has no option 'width'; it has none: lenet alone"),
        ("alexbn:norm=none", "alexbn has no option 'norm'; take activation, order, each as NAME=VALUE"),
        ("alexbn:activation=tanh", "activation of alexbn is 'tanh': take relu or sigmoid"),
        ("alexbn:order=none", "order of alexbn is 'none': take source or caffe"),
        ("alexbn:order=caffe,order=source", "alexbn is given order twice"),
        ("mlp:unified=1", "mlp's unified=1 is neither true nor false"),
        ("mlp:hidden=300", "hidden is a parameter of mlp and no option"),
        ("meprop:dropout=much", "meprop's dropout=much is no number"),
        ("meprop:dropout=", "meprop's dropout= is no number"),
        ("alexbn:=", "alexbn has no option ''"),
    ],
)
def test_options_that_are_none_are_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name)


def test_importing_the_problems_loads_no_data_and_no_search() -> None:
    code = (
        "import sys, stantune.images.problem.built_in;"
        "print([name for name in ('optuna', 'PIL', 'rich') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
