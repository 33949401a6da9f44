"""ToldObjective: what a search by ask and tell searches; somebody else trains, and tells values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stantune.errors import UsageError
from stantune.objectives.preparing import check_told
from stantune.protocols import Conditions, Metric, Place, Prepared, Trainer
from stantune.space import Space


@dataclass(frozen=True)
class ToldObjective:
    """Has parameters and a metric, and no training of its own; see protocols.Objective. Raises UsageError."""

    name: str
    space: Space
    metric: Metric
    unit: str = "epoch"
    length: int | None = None

    def __post_init__(self) -> None:
        check_told(self.name, self.space, self.metric, self.unit, self.length)

    @property
    def rate(self) -> float | Literal["auto"] | None:
        """Trainings do what they do."""
        return None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name, and what is compared."""
        return {
            "problem": self.name,
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "unit": self.unit,
            "accelerate": "none",
            "rate": None,
        }

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective: there is nothing to decide."""
        return Prepared(self, 1)

    def trainer(self, place: Place) -> Trainer:
        """Refuse: raises UsageError."""
        raise UsageError(
            f"the trainings of {self.name} are yours: ask for segments and tell their metrics, or give tune a function"
        )
