"""Best: where a training is evaluated on its way, and the file that keeps the weights of its best evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stantune.protocols import Metric, best_point


@dataclass(frozen=True)
class Best:
    """What is asked of a training whose best weights are to be kept.

    Attributes:
        path: their file, a checkpoint like that of the training.
        points: iterations at which it is evaluated on the way, ascending; the end comes on top.
        metric: what evaluations are compared by.
    """

    path: Path
    points: tuple[int, ...]
    metric: Metric

    def at(self, curve: Mapping[int, Mapping[str, float]]) -> int | None:
        """Return the iteration of the best evaluation so far; None where none has a value."""
        return best_point(self.metric, curve)
