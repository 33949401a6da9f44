"""What networks are compared by: error, loss, macro F1 and the like by name, or a user's own function."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stantune.arguments import function, one_of, shown, text
from stantune.errors import UsageError
from stantune.images.solving.losses import IGNORED, Loss
from stantune.protocols import DIRECTIONS, Metric

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Measure:
    """How good a network's outputs on a whole split are.

    Attributes:
        name: printed behind the split's: "validation AUC".
        function: (outputs, targets) of all samples, on the CPU, in their order -> the value.
        direction: "minimize" or "maximize".
        unit: printed behind values.
        bounds: the lowest and the highest value that there is.
    """

    name: str
    function: Callable[[Tensor, Tensor], Any]
    direction: Direction = "minimize"
    unit: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        """Raise UsageError where a user's own is none."""
        try:
            text("name", self.name)
            function("function", self.function, ("outputs", "targets"))
            one_of("direction", self.direction, DIRECTIONS)
        except UsageError as error:
            raise UsageError(f"a Measure's {error}") from None
        # Which looks at the unit and the bounds.
        self.metric_on("validation")

    def metric_on(self, split: str) -> Metric:
        """Return what is measured on a split, "validation" or "test"."""
        return Metric(f"{split} {self.name}", self.direction, self.unit, self.bounds)

    def counts(self, outputs: Tensor, targets: Tensor) -> Any:
        """Return what is kept of a batch, of outputs and targets (B, …)."""
        return outputs.cpu(), targets.cpu()

    def value(self, kept: list[Any]) -> float:
        """Return the value from what was kept of all batches."""
        outputs, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return float(self.function(outputs, targets))


@dataclass(frozen=True)
class Summed(Measure):
    """A measure that follows from sums over samples: `function` gives a batch's, float64, and `finish` the value."""

    finish: Callable[[Tensor], float] = lambda sums: float(sums[0] / sums[1])

    def counts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sums of a batch, of outputs and targets (B, …): float64, as `function` gives them."""
        sums: Tensor = self.function(outputs, targets)
        return sums.cpu().double()

    def value(self, kept: list[Tensor]) -> float:
        """Return the value from the sums of all batches."""
        return self.finish(torch.stack(kept).sum(0))


def loss_measure(loss: Loss) -> Measure:
    """Return the mean training loss as a measure: of all that counts, however much of that each batch has."""

    def sums(outputs: Any, targets: Tensor) -> Tensor:
        of_batch, count = loss.function(outputs, targets).double(), loss.counted(targets)
        # The mean of nothing is no number.
        return torch.stack([of_batch * count if count else torch.zeros_like(of_batch), of_batch.new_tensor(count)])

    return Summed("loss", sums)


def _guesses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what the network says: classes (B, …), -1 where scores are not all finite; or labels, of their shape."""
    if outputs.dim() == targets.dim():
        return torch.where(outputs.isfinite(), (outputs > 0).long(), -1)
    return torch.where(outputs.isfinite().all(1), outputs.argmax(1), -1)


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return how many guesses are right, and how many there are.

    Where scores are not all finite the guess is wrong: weights that are no numbers any more (spoilt by the very last
    iteration, so that no loss could tell) must not pass for a guess that is right one time in ten.
    """
    right = _guesses(outputs, targets) == targets
    return torch.stack([right.sum(), (targets != IGNORED).sum()])


def _confusion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return hits, guesses and occurrences of each class or label, (3, classes)."""
    guesses = _guesses(outputs, targets)
    if outputs.dim() == targets.dim():
        hits, said, there = (guesses == 1) & (targets == 1), guesses == 1, targets == 1
        # One label may be (B,).
        return torch.stack([each.unsqueeze(1).flatten(1).sum(0) for each in (hits, said, there)])
    counted = targets != IGNORED
    guesses, targets = guesses[counted], targets[counted]
    classes = outputs.shape[1]
    found = guesses[guesses == targets], guesses[guesses >= 0], targets
    return torch.stack([torch.bincount(each, minlength=classes) for each in found])


def _mean_of_classes(parts: Tensor, wholes: Tensor) -> float:
    """Return the mean of parts / wholes over the classes that occur or are guessed."""
    occurs = wholes > 0
    return float((parts[occurs] / wholes[occurs]).mean()) if bool(occurs.any()) else 0.0


def _percent_wrong(sums: Tensor) -> float:
    return 100.0 * float(sums[1] - sums[0]) / float(sums[1])


def _macro_f1(sums: Tensor) -> float:
    return _mean_of_classes(2 * sums[0], sums[1] + sums[2])


def _mean_iou(sums: Tensor) -> float:
    return _mean_of_classes(sums[0], sums[1] + sums[2] - sums[0])


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    errors = outputs.double() - targets
    return torch.stack([errors.square().sum(), torch.tensor(float(errors.numel())).to(errors)])


def _distances(outputs: Tensor, targets: Tensor) -> Tensor:
    errors = outputs.double() - targets
    return torch.stack([errors.abs().sum(), torch.tensor(float(errors.numel())).to(errors)])


def _explained(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return sum of squared errors, and of the targets their number, sum and sum of squares."""
    numbers = targets.double()
    count = torch.tensor(float(numbers.numel())).to(numbers)
    return torch.stack([(outputs.double() - numbers).square().sum(), count, numbers.sum(), numbers.square().sum()])


def _r2(sums: Tensor) -> float:
    errors, count, total, squares = sums.tolist()
    spread = squares - total * total / count
    return 1.0 - errors / spread if spread > 0 else float("nan")


def _root(sums: Tensor) -> float:
    return float((sums[0] / sums[1]).sqrt())


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Summed("error", _right, unit="%", bounds=(0, 100), finish=_percent_wrong),
        Summed("accuracy", _right, "maximize", "%", (0, 100), lambda sums: 100.0 * float(sums[0]) / float(sums[1])),
        Summed("macro F1", _confusion, "maximize", bounds=(0, 1), finish=_macro_f1),
        Summed("mean IoU", _confusion, "maximize", bounds=(0, 1), finish=_mean_iou),
        Summed("mean squared error", _squares, bounds=(0, math.inf)),
        Summed("root mean squared error", _squares, bounds=(0, math.inf), finish=_root),
        Summed("mean absolute error", _distances, bounds=(0, math.inf)),
        Summed("R2", _explained, "maximize", bounds=(-math.inf, 1), finish=_r2),
    )
}
# Follows from the problem's loss; see `loss_measure`.
LOSS = "loss"
# What each can judge: guesses of classes or labels, or numbers.
OF_NUMBERS = ("mean squared error", "root mean squared error", "mean absolute error", "R2")
# Which count each class by itself, and so need to know of each.
OF_EACH_CLASS = ("macro F1", "mean IoU")


def of_classes(measure: Measure) -> bool | None:
    """Tell whether a measure judges guesses of classes or labels; None for the loss, and for a user's own."""
    return measure.name not in OF_NUMBERS if MEASURES.get(measure.name) is measure else None


def measure_of(given: str | Measure | Callable[[Tensor, Tensor], Any], loss: Loss) -> Measure:
    """Return the measure of this name, or a user's function as one that is the better the lower it is.

    Raises UsageError where there is none.
    """
    if isinstance(given, Measure):
        return given
    if not isinstance(given, str):
        return Measure(getattr(given, "__name__", "measure"), given)
    if given == LOSS:
        return loss_measure(loss)
    if given not in MEASURES:
        names = [LOSS, *MEASURES]
        near = difflib.get_close_matches(given.replace("_", " "), names, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"no measure is called {shown(given)}{hint}: there are {', '.join(names)}, or give a Measure(name, "
            "function, direction)"
        )
    return MEASURES[given]
