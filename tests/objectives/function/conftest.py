"""What the tests of objectives share: a function trained for one segment, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stantune.objectives.function.objective import FunctionObjective
from stantune.outcome import Outcome
from stantune.parameters import Float
from stantune.protocols import Metric, Place, Segment
from stantune.space import Space

SPACE = Space({"x": Float(0, 1)})


class Trained:
    """Trains functions, each time in a trainer that is new.

    Attributes:
        where: the folder of the checkpoints.
        watched: what was told on the way, of all segments.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        self.watched: list[int] = []

    def __call__(
        self,
        function: Callable[..., object],
        start: int = 0,
        stop: int = 3,
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 5,
        final: bool = False,
        rates: tuple[tuple[int, float], ...] = (),
        stop_early: Callable[[], bool] = lambda: False,
        metric: Metric | None = None,
        **others: Any,
    ) -> Outcome:
        """Return the outcome."""
        objective = FunctionObjective(function, SPACE, metric or Metric("loss"), name="train", **others)
        segment = Segment(
            0,
            params or {"x": 0.5},
            start,
            stop,
            seed,
            self.where / "final.pt" if final else self.checkpoint,
            bracket=None if final else 0,
            finalist=0 if final else None,
            rates=rates,
        )
        return objective.trainer(Place(threads=1)).train(segment, stop_early, self.watched.append)

    @property
    def checkpoint(self) -> Path:
        """The trial's file."""
        return self.where / "trial-000000.pt"


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """What trains a function in a folder of its own."""
    return Trained(tmp_path)
