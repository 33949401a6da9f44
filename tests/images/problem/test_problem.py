"""Problems: the built-in ones against the source's tables, a user's own from a file, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stantune.errors import UsageError
from stantune.images.data import Dataset, Normalise, Split
from stantune.images.problem.built_in import BUILT_IN, Problem, find, options_of
from stantune.images.solving.solver import Solver
from stantune.parameters import Categorical, Float, Integer
from stantune.space import Space

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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenett", r"no problem is called 'lenett' \(did you mean lenet\?\): there are lenet, cq, .*FILE\.py:NAME"),
        ("CQ", "no problem is called 'CQ' .did you mean cq"),
        ("alexl", "did you mean alexlrn"),
        ("", "no problem is called '': there are lenet"),
        ("my_problem.py", "no problem is called 'my_problem.py'"),
        ("nowhere.py:problem", "there is no file nowhere.py"),
        ("lenet:problem", "there is no file lenet"),
    ],
)
def test_an_unknown_problem_is_named_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name)


SOURCE = '''
"""A problem of the user's own."""
from torch import nn
from stantune import Float, Integer, Problem, Solver, Space


def net(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


mine = Problem(
    name="mine",
    network=net,
    data="mnist",
    space=Space({"lr": Float(1e-4, 1, log=True), "width": Integer(4, 64), "weight_decay": Float(0, 1)}),
    solver=Solver(lr=0.1),
    iterations=50,
)
other = Problem(name="other", network=net, data="mnist", space=Space({}), solver=Solver(lr=0.1), iterations=5)
number = 5
'''


def test_a_problem_in_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "my problem.py"
    path.write_text(SOURCE)
    problem = find(f"{path}:mine")
    assert (problem.name, list(problem.space)) == ("mine", ["lr", "width", "weight_decay"])
    assert problem.build({"width": 5, "lr": 0.5})[1].out_features == 5
    assert find(f"{path}:other").name == "other"
    path.write_text(SOURCE.replace('name="mine"', 'name="yours"'))
    assert find(f"{path}:mine").name == "yours"  # read anew, not remembered


@pytest.mark.parametrize(
    ("source", "attribute", "message"),
    [
        (SOURCE, "min", "has no Problem called 'min'; it has mine, other"),
        (SOURCE, "number", "has no Problem called 'number'; it has mine, other"),
        (SOURCE, "", "has no Problem called ''"),
        ("x = 1", "mine", "has no Problem called 'mine'; it has none"),
        ("def f(:", "mine", "cannot be imported: SyntaxError"),
        ("import nothing_of_that_name", "mine", "cannot be imported: ModuleNotFoundError: No module named 'nothing"),
        ("from stantune.data import Split", "mine", "stantune.data is stantune.images.data now"),
        (
            "import stantune.solver",
            "mine",
            "stantune.solver is stantune.images.solving.solver now, so import from there",
        ),
        ("import stantune.images.solver", "mine", "stantune.images.solver is stantune.images.solving.solver now, so"),
        ("from stantune.nets.caffe import LRN", "mine", "stantune.nets is stantune.images.nets now"),
        (SOURCE.replace("iterations=50", "iterations=0"), "mine", "problem 'mine': iterations=0 is too small"),
    ],
)
def test_a_file_without_the_problem_says_what_is_wrong(
    source: str, attribute: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "problems.py"
    path.write_text(source)
    with pytest.raises(UsageError, match=message) as caught:
        find(f"{path}:{attribute}")
    assert str(path) in str(caught.value)


def test_a_range_that_is_refused_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "problems.py"
    path.write_text(SOURCE.replace("Integer(4, 64)", "\n    Integer(64, 4)"))
    number = 1 + path.read_text().splitlines().index('    Integer(64, 4), "weight_decay": Float(0, 1)}),')
    with pytest.raises(UsageError, match=rf"Integer\(.*is empty: low is above high \(line {number}\)$"):
        find(f"{path}:mine")


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "problem.txt").write_text(SOURCE)
    with pytest.raises(UsageError, match=r"problem\.txt is no Python file"):
        find(f"{tmp_path / 'problem.txt'}:mine")


def test_a_file_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("raise RuntimeError('no')")
    before = set(sys.modules)
    with pytest.raises(UsageError, match="RuntimeError: no"):
        find(f"{tmp_path / 'failing.py'}:mine")
    assert set(sys.modules) == before


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


def test_importing_the_problems_loads_no_data_and_no_search() -> None:
    code = (
        "import sys, stantune.images.problem.built_in;"
        "print([name for name in ('optuna', 'PIL', 'rich') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
