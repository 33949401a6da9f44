"""Best: where a training is evaluated on its way, and the file that keeps the weights of its best evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def curve_to_go_on_with(
    metric: Metric, state: Mapping[str, Any], best: Mapping[str, Any] | None, at: str
) -> dict[int, dict[str, float]] | None:
    """Return what was measured of a training so far; None where the weights that were best are gone.

    Args:
        metric: what evaluations are compared by.
        state: of the training's checkpoint.
        best: of the file of the best weights, None where there is none.
        at: the name under which `best` says how far it is.
    """
    curve: dict[int, dict[str, float]] = dict(state.get("curve", {}))
    point = None
    if best is not None:
        # It may be newer than the checkpoint, and what comes of it once more may differ in the last bits.
        point = best[at]
        curve |= {each: measured for each, measured in best.get("curve", {}).items() if each == point}
    return curve if best_point(metric, curve) == point else None
