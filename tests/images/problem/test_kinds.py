"""Problems of all kinds train, are evaluated, and go on to the same bits; what does not fit together is told."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stantune import Categorical, Dataset, Float, Integer, Normalise, Problem, Solver, Space, Split, run
from stantune.errors import CheckpointError, StanWarning, UsageError

RANDOM = np.random.default_rng(3)
TABLE = RANDOM.normal(size=(240, 4)).astype(np.float32)
SEQUENCES = RANDOM.integers(0, 20, (240, 6))
PICTURES = RANDOM.integers(0, 256, (240, 6, 6), dtype=np.uint8)

pytestmark = pytest.mark.usefixtures("one_thread")


class Pooled(nn.Module):
    """Token ids (B, length) to scores (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.embedding(ids).mean(1))


def halves(inputs: Any, targets: Any, classes: int | None = None) -> Dataset:
    return Dataset("made up", (inputs[:200], targets[:200]), (inputs[200:], targets[200:]), classes)


def problem(network: Callable[[], nn.Module], data: Any, **more: Any) -> Problem:
    given = {"space": Space({"lr": Float(1e-4, 1, log=True)}), "solver": Solver(lr=0.05, momentum=0.9)}
    return Problem("kind", network, data, **{**given, "iterations": 150, "batch_size": 20, "validation": 40, **more})


def lines(outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs))


def worst(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().max()


WEIGHTS = np.array([[1.0, -2.0, 0.5, 0.0]], np.float32).T
KINDS = {
    "regression": (
        problem(lines(1), halves(TABLE, TABLE @ WEIGHTS), loss="mean squared error"),
        ("validation mean squared error", 0.3),
    ),
    "explained": (
        problem(lines(1), halves(TABLE, TABLE @ WEIGHTS), loss="mean squared error", measure="R2"),
        ("validation R2", 0.9),
    ),
    "own": (
        problem(lines(1), halves(TABLE, TABLE @ WEIGHTS), loss=nn.SmoothL1Loss(), measure=worst),
        ("validation worst", 2.0),
    ),
    "labels": (
        problem(lines(2), halves(TABLE, TABLE[:, :2] > 0), loss="binary cross entropy"),
        ("validation macro F1", 0.9),
    ),
    "classes of a table": (
        problem(lines(3), halves(TABLE, TABLE[:, :3].argmax(1)), normalise=Normalise(mean="channel", std="channel")),
        ("validation error", 20.0),
    ),
    "token ids": (
        problem(Pooled, halves(SEQUENCES, (SEQUENCES.sum(1) > 57).astype(int)), solver=Solver(kind="adam", lr=0.02)),
        ("validation error", 25.0),
    ),
    "segmentation": (
        problem(
            lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)),
            halves(PICTURES, (PICTURES > 128).astype(np.uint8)),
            normalise=Normalise(scale=1 / 64, mean="channel"),
            measure="mean IoU",
        ),
        ("validation mean IoU", 0.8),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_and_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    what, (name, bound) = KINDS[kind]
    assert what.metric.name == name
    splits = what.load()
    whole = run(what, {}, None, 0, 150, splits=splits, evaluate=("validation", "test"))
    assert list(whole.metrics) == [name, name.replace("validation", "test")]
    value = whole.metrics[name]
    assert value < bound if what.metric.direction == "minimize" else value > bound
    run(what, {}, tmp_path / "t.pt", 0, 70, splits=splits)
    assert run(what, {}, tmp_path / "t.pt", 70, 150, splits=splits, evaluate=("validation", "test")) == whole


def test_numbers_far_from_zero_are_not_taken_for_a_divergence() -> None:
    data = halves(TABLE, TABLE @ WEIGHTS + 1000)
    what = problem(lines(1), data, loss="mean squared error", solver=Solver(kind="adam", lr=0.1))
    assert run(what, {}, None, 0, 150, splits=what.load()).diverged_at is None
    high = replace(what, solver=Solver(lr=1e9))
    assert run(high, {}, None, 0, 150, splits=high.load()).diverged_at is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": halves(TABLE, TABLE[:, 0])}, "the targets of train are float32, and the loss 'cross entropy' takes"),
        ({"data": halves(TABLE, TABLE[:, 0] > 0)}, "the targets of train are bool.* 'binary cross entropy' for labels"),
        (
            {"data": halves(TABLE, np.arange(240) % 3 - 1)},
            "targets of train hold the class -1; count classes from",
        ),
        ({"data": halves(TABLE, np.arange(240) % 4, 3)}, "its targets go up to 3, and its data have classes=3, 0 to 2"),
        (
            {"data": halves(TABLE, np.arange(240) % 4)},
            r"makes \(2, 3\) of inputs \(2, 4\), .* needs \(2, 4\); change",
        ),
        ({"data": halves(TABLE + np.inf, np.arange(240) % 3)}, "the inputs of train hold values that are no finite"),
        ({"data": halves(TABLE, TABLE[:, :3]), "loss": "binary cross entropy"}, "hold other values than 0 and 1"),
        ({"data": halves(TABLE, TABLE[:, 0]), "loss": "huber"}, r"makes \(2, 3\) .* the loss 'huber' needs \(2,\)"),
        ({"data": halves(TABLE[:, :3], np.arange(240) % 3)}, r"inputs of shape \(2, 3\) \(RuntimeError: mat1"),
        ({"data": halves(TABLE[:0], np.arange(0))}, "its data have no training samples; give them some"),
        (
            {"data": lambda root: 5},
            r"data returned an int; have it return Dataset\(name, train=\(inputs, targets\), tes",
        ),
        ({"data": lambda root: (TABLE, TABLE)}, "data returned a tuple; have it return Dataset"),
        ({"data": lambda root: [(TABLE, TABLE), (TABLE, TABLE)]}, "data returned a list; have it return Dataset"),
        ({"data": lambda root: {"train": TABLE}}, "data returned a dict; have it return Dataset"),
        ({"data": lambda root: None}, "data returned None; have it return Dataset"),
        ({"data": lambda root: Split(TABLE, TABLE)}, "data returned a Split; have it return Dataset"),
        (
            {"data": lambda root: np.load("/nowhere/at all.npy")},
            r"its data cannot be loaded \(FileNotFoundError: .*all.npy', in .*test_kinds.py, line \d+\); mend",
        ),
        ({"loss": "entropy"}, "no loss is called 'entropy'"),
        ({"measure": "f1"}, "no measure is called 'f1'"),
    ],
)
def test_what_does_not_fit_together_is_told_before_anything_trains(change: dict[str, Any], message: str) -> None:
    good = problem(lines(3), halves(TABLE, np.arange(240) % 3))
    state = torch.get_rng_state()
    good.load()
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UsageError, match=message):
        replace(good, **change).load()


def test_training_parameters_are_a_settings(tmp_path: Path) -> None:
    space = Space(
        {
            "lr": Float(1e-4, 1, log=True),
            "batch_size": Integer(5, 50),
            "label_smoothing": Float(0, 0.3),
            "optimizer": Categorical(("sgd", "adamw")),
            "schedule": Categorical(("cosine", "step")),
            "warmup": Float(0, 0.5),
        }
    )
    what = problem(lines(3), halves(TABLE, TABLE[:, :3].argmax(1)), space=space, solver=Solver(lr=0.05))
    splits = what.load()
    setting = {"batch_size": 7, "label_smoothing": 0.2, "optimizer": "adamw", "schedule": "cosine", "warmup": 0.1}
    assert len(what.batches(splits, setting, 0, "cpu").at(0).ids) == 7
    outputs, targets = torch.randn(5, 3), torch.arange(5) % 3
    smooth = nn.functional.cross_entropy(outputs, targets, label_smoothing=0.2)
    assert torch.equal(what.criterion(setting)(outputs, targets), smooth)
    whole = run(what, setting, None, 0, 60, splits=splits)
    run(what, setting, tmp_path / "t.pt", 0, 25, splits=splits)
    assert run(what, setting, tmp_path / "t.pt", 25, 60, splits=splits) == whole
    state = torch.load(tmp_path / "t.pt", weights_only=True)["state"]
    course = what.course_of(setting)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.05 * course.factor(59)
    # Schedules take as long as a search trains, and another length is another training.
    shorter = what.lasting(60)
    assert shorter.course_of(setting).factor(59) < course.factor(59) / 10
    with pytest.raises(CheckpointError, match="another trial's"):
        run(shorter, setting, tmp_path / "t.pt", 60, 61, splits=splits)
    fixed = problem(lines(3), what.data)
    assert fixed.lasting(60) is fixed


def test_where_nobody_says_a_batch_is_at_most_all_samples() -> None:
    few = Dataset("few", (TABLE[:50], TABLE[:50, :3].argmax(1)))
    what = Problem("few", lines(3), few, Space({}), Solver(lr=0.1), 5)
    assert len(what.batches(what.load(), {}, 0, "cpu").at(0).ids) == 40
    with pytest.raises(UsageError, match="batch size 41 does not fit 40 training samples"):
        what.batches(what.load(), {"batch_size": 41}, 0, "cpu")
    for sizes in (Integer(1, 41), Integer(0, 9), Categorical((10, 41)), Float(1, 5)):
        with pytest.raises(UsageError, match=r"batch_size (is one of|goes from) .*; give whole numbers from 1 to 40"):
            replace(what, space=Space({"batch_size": sizes})).load()


def test_a_range_of_batch_sizes_is_called_one() -> None:
    what = problem(lines(3), halves(TABLE, np.arange(240) % 3), space=Space({"batch_size": Integer(100, 1000)}))
    with pytest.raises(UsageError, match="batch_size goes from 100 to 1000, and there are 160 training samples"):
        what.load()


REGRESSION = {"data": halves(TABLE, TABLE @ WEIGHTS), "network": lines(1)}
ONCE = nn.Linear(4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {**REGRESSION, "loss": worst, "measure": "error"},
            "targets of train are numbers for the loss 'worst', and the",
        ),
        ({**REGRESSION, "loss": worst, "measure": "R2", "network": lines(2)}, r"makes \(2, 2\), and the measure 'R2'"),
        ({"network": lambda: ONCE}, "network returns the same weights each time .weight, bias., and all trials would"),
        ({"network": lambda: nn.Sequential(ONCE, nn.Linear(3, 3))}, "returns the same weights each time .0.weight"),
        ({"network": lambda: None}, "network returns a NoneType; have it return a torch.nn.Module"),
        (
            {"loss": nn.CrossEntropyLoss(reduction="none")},
            r"its loss returns values of shape \(2,\); return the mean over the samples",
        ),
        ({"loss": lambda outputs, targets: 0.5}, "its loss returns a float; return the mean"),
        (
            {"measure": lambda outputs, targets: outputs.argmax(1) == targets},
            r"its measure returns values of shape \(2,\); return one number for all samples",
        ),
        ({"measure": lambda outputs, targets: None}, "its measure returns a NoneType; return one number"),
        ({"solver": Solver(lr=0.1, options={"nesterov": True})}, "sgd cannot be made .Nesterov"),
        (
            {"space": Space({"3_l2": Float(0, 1)})},
            "the space has 3_l2, but the network has no layer 3; take 0_l2, 2_l2$",
        ),
    ],
)
def test_what_would_spoil_every_training_is_found_on_one_batch(change: dict[str, Any], message: str) -> None:
    good = problem(lines(3), halves(TABLE, np.arange(240) % 3))
    with pytest.raises(UsageError, match=message) as error:
        replace(good, **change).load()
    assert "\n" not in str(error.value)


def test_a_loss_or_a_measure_that_needs_more_samples_is_left_alone() -> None:
    def needs_many(outputs: Tensor, targets: Tensor) -> Tensor:
        if len(targets) < 10:
            raise ValueError("too few samples")
        return nn.functional.cross_entropy(outputs, targets)

    what = problem(lines(3), halves(TABLE, np.arange(240) % 3), loss=needs_many, measure=needs_many)
    assert run(what, {}, None, 0, 2, splits=what.load()).diverged_at is None


def test_a_layer_inside_of_others_has_a_decay_of_its_own() -> None:
    def network(depth: int = 1) -> nn.Module:
        return nn.Sequential(OrderedDict(features=lines(8)(), **{f"fc{n}": nn.Linear(8, 8) for n in range(depth)}))

    names = ("features.0_l2", "fc1_l2")
    space = Space({"depth": Integer(1, 2), **{name: Float(0, 1) for name in names}})
    what = problem(network, halves(TABLE, np.arange(240) % 8), space=space)
    # fc1 is there in some of the networks.
    splits = what.load()
    setting = {"depth": 2, "features.0_l2": 0.5, "fc1_l2": 0.25}
    decays = [group["weight_decay"] for group in what.optimizer(what.build(setting), setting).param_groups]
    assert decays == [0.5, 0.0, 0.25]
    run(what, setting, None, 0, 2, splits=splits)


@pytest.mark.parametrize(("classes", "warned"), [(np.arange(240) // 80, True), (np.arange(240) % 3, False)])
def test_the_last_of_samples_that_are_sorted_by_class_are_warned_of(classes: Any, warned: bool) -> None:
    what = problem(lines(3), halves(TABLE, classes), hold_out="last")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        what.load()
        replace(what, hold_out="stratified").load()
    said = [str(each.message) for each in caught if issubclass(each.category, StanWarning)]
    assert len(said) == warned
    assert all("holds out 1 class and leaves 2" in each and "give hold_out='stratified'" in each for each in said)


def test_augmentation_may_see_the_setting() -> None:
    def shifted(inputs: Tensor, ids: Tensor, generator: torch.Generator, setting: Mapping[str, Any]) -> Tensor:
        return inputs + setting.get("shift", 0.0)

    def network(shift: float = 0.0) -> nn.Module:
        return lines(3)()

    data = halves(TABLE, TABLE[:, :3].argmax(1))
    what = problem(network, data, space=Space({"shift": Float(0, 9)}), augment=shifted)
    plain, moved = (what.batches(what.load(), setting, 0, "cpu").at(3) for setting in ({}, {"shift": 2.0}))
    torch.testing.assert_close(moved.inputs, plain.inputs + 2.0)


def flipped(inputs: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    return inputs.flip(9)


@pytest.mark.parametrize(
    ("field", "given", "sentence"),
    [
        ("augment", flipped, r"'kind': its augment fails on a training batch \(IndexError: Dimension out of range"),
        ("augment", int, r"its augment fails on a training batch \(TypeError: int"),
        (
            "augment",
            lambda inputs, ids, generator: inputs[:1],
            r"'kind': augment must return inputs for a batch of .*, not \(1, ",
        ),
        ("augment", lambda inputs, ids, generator: None, "augment must return inputs for a batch of .*, not NoneType"),
        ("loss", int, "its loss cannot be called with outputs and targets"),
        ("measure", int, "its measure cannot be called with outputs and targets"),
    ],
)
def test_functions_that_would_fail_each_trial_are_tried_first(field: str, given: Any, sentence: str) -> None:
    what = problem(lines(3), halves(TABLE, TABLE[:, :3].argmax(1)), **{field: given})
    with pytest.raises(UsageError, match=sentence):
        what.load()


class Wrong(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.nothing(inputs)
        return result


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda: Wrong(4, 3), r"network fails on inputs of shape \(2, 4\) \(AttributeError: 'Wrong' object has no"),
        (lambda: {}["width"], r"its network cannot be made \(KeyError: 'width'\); mend that"),
        (lambda: nn.Linear(4, -3), r"its network cannot be made \(RuntimeError: .*-3.*\); mend that"),
    ],
    ids=["forward", "making", "layer"],
)
def test_a_network_s_own_mistake_is_a_sentence(network: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        problem(network, halves(TABLE, TABLE[:, :3].argmax(1))).load()


def test_an_augmentation_that_needs_the_setting_is_not_blamed_for_it() -> None:
    def shifted(inputs: Tensor, ids: Tensor, generator: torch.Generator, setting: Mapping[str, Any]) -> Tensor:
        return inputs + setting["lr"]

    assert problem(lines(3), halves(TABLE, TABLE[:, :3].argmax(1)), augment=shifted).load()


def test_validation_is_a_share_drawn_by_class_unless_told() -> None:
    data = halves(TABLE, np.arange(240) % 4 // 3)
    what = problem(lines(2), data, validation=None)
    splits = what.load()
    assert (len(splits.train), len(splits.validation), int(splits.validation.targets.sum())) == (160, 40, 10)
    assert what.identity == {"hold_out": ["stratified", 0]}
    other = replace(what, hold_out_seed=1).load()
    assert not torch.equal(other.validation.ids, splits.validation.ids)
    last = replace(what, hold_out="last", validation=0.1)
    assert last.load().validation.ids.tolist() == list(range(180, 200))
    assert last.identity == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 1.5}, "`validation`=1.5 is no share of the samples; give one above 0 and below 1"),
        ({"hold_out": "middle"}, "`hold_out`='middle' is unknown; give stratified or random or first or last"),
        ({"label_smoothing": 0.1, "loss": "huber"}, "the loss 'huber' has no label_smoothing; leave that out"),
        ({"space": Space({"optimizer": Categorical(("sgd", "adagard"))})}, "no optimizer 'adagard'"),
        ({"space": Space({"schedule": Categorical(("cosine", "linear"))})}, "no schedule is called 'linear'"),
        ({"space": Space({"batchsize": Integer(1, 9)})}, "nothing takes the parameter 'batchsize'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        problem(lines(3), halves(TABLE, np.arange(240) % 3), **change)
