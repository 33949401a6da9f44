"""What data and network lack for a measure is said before anything trains, and not by its first evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stantune import Dataset, Problem, Solver, Space, run
from stantune.errors import UsageError
from stantune.images.solving.losses import IGNORED

INPUTS = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
PICTURES = np.random.default_rng(1).integers(0, 256, (60, 4, 4), dtype=np.uint8)
PIXELS = (PICTURES > 128).astype(np.int64)

pytestmark = pytest.mark.usefixtures("one_thread")


def own(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.square().mean()


def problem(network: Any, train: tuple[Any, Any], test: tuple[Any, Any] | None = None, **more: Any) -> Problem:
    data = Dataset("made up", train, test)
    given = {"batch_size": 10, "validation": 20, "hold_out": "last", **more}
    return Problem("small", network, data, Space({}), Solver(lr=1e-6), 9, **given)


def lines(outputs: int) -> nn.Module:
    return nn.Linear(4, outputs)


def of_classes(targets: Any, outputs: int = 3, **more: Any) -> Problem:
    """Return a problem of a table with a loss of the user's own; the last 10 samples are for testing."""
    split = (INPUTS[:50], targets[:50]), (INPUTS[50:], targets[50:])
    return problem(lambda: lines(outputs), *split, **{"loss": own, **more})


def of_pixels(targets: Any, **more: Any) -> Problem:
    """Return a segmentation in two classes, of which the last 10 samples are for testing."""
    split = (PICTURES[:50], targets[:50]), (PICTURES[50:], targets[50:])
    return problem(lambda: nn.Conv2d(1, 2, 1), *split, **more)


def ends(what: Problem) -> dict[str, float]:
    """Return what it is measured by at its end."""
    found = run(what, {}, None, 0, 2, splits=what.load(), evaluate=("validation", "test"))
    return dict(found.metrics)


THREE = np.arange(60) % 3
FOURTH_IN_TEST = np.where(np.arange(60) == 59, 3, THREE)


@pytest.mark.parametrize("measure", ["macro F1", "mean IoU"])
@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (np.arange(60) % 6, "counts classes from 0 to 2, but the targets go from 0 to 5; change its last layer, or"),
        (FOURTH_IN_TEST, "counts classes from 0 to 2, but the targets go from 0 to 3; change"),
        (THREE - 1, "counts classes from 0 to 2, but the targets go from -1 to 1; change its last layer, or count"),
        (THREE > 1, "then counts classes, and the targets are bool; give classes as int64, or outputs of the targets'"),
    ],
    ids=["too many", "too many in test", "below 0", "labels"],
)
def test_each_class_that_is_counted_needs_a_score(measure: str, targets: Any, sentence: str) -> None:
    made = rf"'small': the network makes \(2, 3\), and the measure '{measure}' "
    with pytest.raises(UsageError, match=f"{made}.*{sentence}"):
        of_classes(targets, measure=measure).load()


def test_what_can_be_counted_is_left_alone() -> None:
    for measure in ("macro F1", "mean IoU"):
        assert len(ends(of_classes(THREE, measure=measure))) == 2
        assert len(ends(of_classes(THREE, 5, measure=measure))) == 2
    # Of what is trained on alone nothing is counted, and of labels, and of shares of what is right, not by class.
    assert len(ends(of_classes(np.where(np.arange(60) < 9, -1, THREE), measure="macro F1"))) == 2
    assert len(ends(of_classes(np.stack([THREE > 0] * 3, 1), measure="macro F1"))) == 2
    assert len(ends(of_classes(np.arange(60) % 6, measure="error"))) == 2
    ignored = np.where(np.arange(60) % 5 == 0, IGNORED, THREE)
    assert len(ends(of_classes(ignored, measure="mean IoU"))) == 2


def without(first: int, last: int) -> Any:
    """Return targets of pixels of which these samples' are of no class."""
    places = np.arange(60)[:, None, None]
    return np.where((places >= first) & (places < last), IGNORED, PIXELS)


@pytest.mark.parametrize("measure", ["error", "accuracy", "loss", "mean IoU"])
@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (without(50, 60), "the targets of test are all -100, which counts for nothing; give .*, or leave test out"),
        (without(0, 50), "the targets of train are all -100, which counts for nothing; give some of them classes$"),
        (without(30, 50), "the targets of the 20 samples that are held out are all -100, .*; hold out more of them"),
    ],
    ids=["test", "train", "validation"],
)
def test_a_part_in_which_nothing_is_of_a_class_is_refused(measure: str, targets: Any, sentence: str) -> None:
    """The error of nothing at all is no number, and was found at the very end."""
    with pytest.raises(UsageError, match=f"problem 'small': {sentence}"):
        of_pixels(targets, measure=measure).load()


def test_a_part_in_which_nothing_is_of_a_class_is_refused_under_a_loss_of_ones_own() -> None:
    with pytest.raises(UsageError, match="the targets of test are all -100"):
        of_pixels(without(50, 60), loss=own, measure="error").load()
    with pytest.raises(UsageError, match="the targets of the 20 samples that are held out are all -100"):
        of_pixels(without(30, 50), loss=own, measure="accuracy").load()


def test_parts_with_few_pixels_that_count_are_taken_and_so_are_measures_of_ones_own() -> None:
    few = without(50, 60)
    few[55, 0, 0] = 1
    assert len(ends(of_pixels(few))) == 2
    assert len(ends(of_pixels(without(50, 60), measure=lambda outputs, targets: 0.5))) == 2
    assert len(ends(of_pixels(without(0, 30), loss=own, measure="error"))) == 2


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int64])
def test_masks_of_any_kind_of_whole_numbers_train_alike(kind: Any) -> None:
    torch.manual_seed(0)
    assert ends(of_pixels(PIXELS.astype(kind))) == ends(of_pixels(PIXELS))
