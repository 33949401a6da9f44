"""Training losses by name: what targets each takes, what a network that knows nothing has, and what it is judged by."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.training.trainable import Criterion

# A pixel of this class counts for nothing, as in PyTorch.
IGNORED = -100
# Samples of which something is computed at once.
PIECE = 1000
Targets = Literal["classes", "labels", "numbers", "any"]


@dataclass(frozen=True)
class Loss:
    """A training loss.

    Attributes:
        name: for messages.
        function: (what the network returns, targets) -> a scalar, a mean over samples.
        targets: what it compares outputs with: "classes", int64 (B,) or (B, H, W) against (B, classes, …); "labels",
            (B, L) of 0 and 1; "numbers", as many as outputs; "any", where it is a user's own.
        measure: the name of what networks are compared by, unless the problem says.
        chance: (training targets, number of classes) -> the loss of a network that knows nothing; None: nobody knows.
        smoothed: a label smoothing -> the function with it; None where it has none.
        counted: targets -> how many parts of them the mean is over, or a number that grows as that does.
    """

    name: str
    function: Criterion
    targets: Targets
    measure: str
    chance: Callable[[Tensor, int | None], float | None] = lambda targets, classes: None
    smoothed: Callable[[float], Criterion] | None = None
    counted: Callable[[Tensor], int] = len

    def criterion(self, smoothing: float) -> Criterion:
        """Return the function, with a label smoothing unless that is 0."""
        return self.smoothed(smoothing) if smoothing and self.smoothed else self.function


def _entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def _smoothed_entropy(smoothing: float) -> Criterion:
    return partial(F.cross_entropy, label_smoothing=smoothing)


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets.to(outputs.dtype))


def _absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.l1_loss(outputs, targets.to(outputs.dtype))


def _huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(outputs, targets.to(outputs.dtype))


def _of_zeros(function: Criterion) -> Callable[[Tensor, int | None], float | None]:
    """Return the loss of a network that always says 0, as a new one nearly does."""

    def chance(targets: Tensor, classes: int | None) -> float | None:
        total = 0.0
        # Targets may be images, and float64 of all at once more than all else that a training has in memory.
        for piece in torch.split(targets, PIECE):
            numbers = piece.double()
            total += float(function(torch.zeros_like(numbers), numbers)) * len(piece)
        return total / len(targets) or None

    return chance


def _classified(targets: Tensor) -> int:
    """Return how many samples, or pixels of theirs, are of a class."""
    return int((targets != IGNORED).sum())


LOSSES = {
    loss.name: loss
    for loss in (
        Loss(
            "cross entropy",
            _entropy,
            "classes",
            "error",
            lambda targets, classes: math.log(classes) if classes and classes > 1 else None,
            _smoothed_entropy,
            _classified,
        ),
        Loss("binary cross entropy", _binary, "labels", "macro F1", lambda targets, classes: math.log(2)),
        Loss("mean squared error", _squared, "numbers", "mean squared error", _of_zeros(_squared)),
        Loss("mean absolute error", _absolute, "numbers", "mean absolute error", _of_zeros(_absolute)),
        Loss("huber", _huber, "numbers", "mean absolute error", _of_zeros(_huber)),
    )
}


def loss_of(given: str | Callable[..., Any]) -> Loss:
    """Return the loss of this name, or a user's function as one; raises UsageError where there is none."""
    if not isinstance(given, str):
        return Loss(getattr(given, "__name__", "loss"), given, "any", "loss")
    if given not in LOSSES:
        near = difflib.get_close_matches(given.lower().replace("_", " "), LOSSES, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"no loss is called {shown(given)}{hint}: there are {', '.join(LOSSES)}, or give a function "
            "(outputs, targets) -> scalar"
        )
    return LOSSES[given]
