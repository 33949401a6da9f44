"""Measures against plain loops over samples, in batches of any size; losses by name, and their chance level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images.data import Normalise, Split
from stantune.images.solving.evaluation import measured
from stantune.images.solving.losses import IGNORED, LOSSES, loss_of
from stantune.images.solving.measures import MEASURES, Measure, measure_of

NAN = math.nan


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": 5}, "a Measure's `name`=5 is no text"),
        ({"function": len}, r"a Measure's `function`=.*len> cannot be called as it is; give a function of \(outputs"),
        ({"function": "mean"}, "a Measure's `function`='mean' is no function"),
        ({"direction": "up"}, "a Measure's `direction`='up' is unknown; give minimize or maximize"),
        (
            {"bounds": (1, 0)},
            r"the bounds of metric 'validation mean' are \(1, 0\); give its lowest and",
        ),
        ({"unit": None}, "the unit of metric 'validation mean' is None, which is no text; give one, or leave it away"),
    ],
)
def test_a_measure_of_ones_own_is_looked_at(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Measure(**{"name": "mean", "function": lambda outputs, targets: 0.0, **given})


def of_batches(measure: Measure, outputs: Tensor, targets: Tensor, size: int) -> float:
    """Return the measure of samples that come in batches."""
    parts = zip(outputs.split(size), targets.split(size), strict=True)
    return measure.value([measure.counts(*part) for part in parts])


def f1(hits: int, said: int, there: int) -> float:
    return 2 * hits / (said + there)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 20), classes=st.integers(2, 5), pixels=st.booleans())
def test_classes_are_counted_as_a_loop_does(seed: int, size: int, classes: int, pixels: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (13, 3, 2) if pixels else (13,)
    outputs = torch.randn(13, classes, *shape[1:], generator=generator)
    targets = torch.randint(0, classes, shape, generator=generator)
    outputs.reshape(13, classes, -1)[3, 0, 0] = NAN
    if pixels:
        targets[5, 0, 1] = IGNORED
    pairs = []
    for sample in range(13):
        for row, place in zip(outputs[sample].reshape(classes, -1).T, targets[sample].reshape(-1), strict=True):
            guess = int(row.argmax()) if bool(row.isfinite().all()) else -1
            if int(place) != IGNORED:
                pairs.append((guess, int(place)))
    wrong = 100 * sum(guess != target for guess, target in pairs) / len(pairs)
    assert of_batches(MEASURES["error"], outputs, targets, size) == pytest.approx(wrong)
    assert of_batches(MEASURES["accuracy"], outputs, targets, size) == pytest.approx(100 - wrong)
    scores, overlaps = [], []
    for each in range(classes):
        hits = sum(guess == target == each for guess, target in pairs)
        said, there = sum(guess == each for guess, _ in pairs), sum(target == each for _, target in pairs)
        if said + there:
            scores.append(f1(hits, said, there))
            overlaps.append(hits / (said + there - hits))
    assert of_batches(MEASURES["macro F1"], outputs, targets, size) == pytest.approx(np.mean(scores))
    assert of_batches(MEASURES["mean IoU"], outputs, targets, size) == pytest.approx(np.mean(overlaps))


def test_labels_are_counted_one_by_one() -> None:
    outputs = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -2.0, 1.0], [3.0, NAN, -1.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    assert of_batches(MEASURES["error"], outputs, targets, 2) == pytest.approx(100 * 3 / 9)
    assert of_batches(MEASURES["macro F1"], outputs, targets, 2) == pytest.approx(
        np.mean([f1(2, 2, 3), f1(0, 0, 1), f1(1, 2, 1)])
    )
    # One label alone may have no dimension of its own.
    assert of_batches(MEASURES["macro F1"], outputs[:, 0], targets[:, 0], 2) == pytest.approx(f1(2, 2, 3))


@given(seed=st.integers(0, 10**6), size=st.integers(1, 20))
def test_numbers_are_compared_as_numpy_does(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, targets = (torch.randn(11, 2, generator=generator) for _ in range(2))
    errors = (outputs.double() - targets.double()).numpy()
    for name, value in (
        ("mean squared error", np.mean(errors**2)),
        ("root mean squared error", np.sqrt(np.mean(errors**2))),
        ("mean absolute error", np.mean(np.abs(errors))),
        ("R2", 1 - np.sum(errors**2) / np.sum((targets.double().numpy() - targets.double().numpy().mean()) ** 2)),
    ):
        assert of_batches(MEASURES[name], outputs, targets, size) == pytest.approx(value)


def test_loss_is_the_mean_over_samples() -> None:
    outputs, targets = torch.randn(7, 3), torch.randint(0, 3, (7,))
    loss = measure_of("loss", LOSSES["cross entropy"])
    expected = float(nn.functional.cross_entropy(outputs.double(), targets))
    assert of_batches(loss, outputs, targets, 3) == pytest.approx(expected)
    assert loss.metric_on("test").name == "test loss"


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_loss_is_the_mean_over_pixels_that_count(size: int) -> None:
    """Also where a batch has few of them, or none, of which the mean is no number."""
    outputs, targets = torch.randn(8, 3, 4, 5), torch.randint(0, 3, (8, 4, 5))
    targets[0] = IGNORED
    targets[1, :3] = IGNORED
    targets[5, 0, :2] = IGNORED
    loss = measure_of("loss", LOSSES["cross entropy"])
    expected = float(nn.functional.cross_entropy(outputs.double(), targets, ignore_index=IGNORED))
    assert of_batches(loss, outputs, targets, size) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
def test_loss_of_labels_is_a_mean_however_they_are_held(kind: torch.dtype) -> None:
    outputs, labels = torch.randn(600, 3), torch.randint(0, 2, (600, 3))
    loss = measure_of("loss", LOSSES["binary cross entropy"])
    expected = float(nn.functional.binary_cross_entropy_with_logits(outputs.double(), labels.double()))
    assert of_batches(loss, outputs, labels.to(kind), 500) == pytest.approx(expected)


def test_a_users_measure_sees_all_samples_in_order() -> None:
    seen: list[Any] = []

    def spread(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append((outputs, targets))
        return (outputs.max() - outputs.min()).sum()

    split = Split(torch.arange(1200.0).reshape(1200, 1), torch.arange(1200))
    measure = Measure("spread", spread, direction="maximize", unit="m")
    value = measured(nn.Identity(), split, Normalise().fit(split), measure)
    assert value == 1199.0
    assert torch.equal(seen[0][0][:, 0], torch.arange(1200.0))
    assert torch.equal(seen[0][1], torch.arange(1200))
    metric = measure.metric_on("validation")
    assert (metric.name, metric.direction, metric.unit) == ("validation spread", "maximize", "m")
    assert measure_of(spread, loss_of(nn.MSELoss())) == Measure("spread", spread)


def test_a_name_that_is_unknown_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no measure is called 'macro_f1' \(did you mean macro F1\?\): there are"):
        measure_of("macro_f1", loss_of("huber"))
    with pytest.raises(UsageError, match=r"no loss is called 'squared_eror' \(did you mean mean squared error\?\)"):
        loss_of("squared_eror")


def test_chance_is_the_loss_of_a_network_that_says_nothing() -> None:
    targets = torch.tensor([3.0, -1.0, 2.0])
    for name, numbers, classes, chance in (
        ("cross entropy", torch.tensor([0, 1]), 7, math.log(7)),
        ("cross entropy", torch.tensor([0, 0]), 1, None),
        ("binary cross entropy", torch.zeros(3, 2), None, math.log(2)),
        ("mean squared error", targets, None, 14 / 3),
        ("mean absolute error", targets, None, 2.0),
        ("mean squared error", torch.zeros(3), None, None),
    ):
        assert loss_of(name).chance(numbers, classes) == (chance and pytest.approx(chance))
    assert loss_of(nn.MSELoss()).chance(targets, None) is None


def test_smoothing_is_pytorchs() -> None:
    outputs, targets = torch.randn(7, 3), torch.randint(0, 3, (7,))
    smooth = loss_of("cross entropy").criterion(0.1)(outputs, targets)
    assert torch.equal(smooth, nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1))
    plain = loss_of("cross entropy").criterion(0.0)(outputs, targets)
    assert torch.equal(plain, nn.functional.cross_entropy(outputs, targets))
