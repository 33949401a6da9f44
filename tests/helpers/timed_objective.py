"""An objective for studies that needs no PyTorch where it trains, and says that it took long: as long as its way asks.

An iteration takes 4000 s in stock PyTorch, 2000 s with every entry computed, half of it with half of them; by so many
seconds longer as the seed of the search is. The error is ten times the parameter. `log` has a line for each segment.
At the rate `broken` nothing can be trained, and the segment of a trial (rate, trial) that `kills` names kills the
process that runs the study, once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stantune.errors import StantuneError
from stantune.files import write_whole
from stantune.outcome import Cost, Outcome
from stantune.parameters import Float
from stantune.protocols import Conditions, Metric, Place, Prepared, Segment, StopEarly
from stantune.space import Space

EVALUATION = 500.0


@dataclass(frozen=True)
class Timed:
    """See protocols.Objective."""

    log: Path
    name: str = "timed"
    stan: Any = None
    pace: float = 0.0
    broken: float | None = None
    kills: tuple[float | None, int] | None = None
    said: float | None = None
    seed: int = 0
    space: Space = field(default_factory=lambda: Space({"x": Float(0.1, 1.0)}))
    length: int | None = 90
    unit: str = "iteration"
    metric: Metric = field(default_factory=lambda: Metric("validation error", unit="%"))

    @property
    def rate(self) -> float | None:
        """See Objective."""
        return self.said if self.stan is None else float(self.stan.least_rate)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name and the rate."""
        return {"problem": self.name, "rate": self.rate}

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective: what the way asks for becomes a number, since Stan comes with PyTorch."""
        pace = 4000.0 if self.rate is None else 2000.0 * self.rate
        return Prepared(replace(self, stan=None, said=self.rate, pace=pace, seed=conditions.seed), 1)

    def trainer(self, place: Place) -> Timed:
        """See Objective."""
        return self

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See Trainer."""
        if self.broken is not None and self.broken == self.said:
            raise StantuneError("there is no more room on the disk")
        with self.log.open("a") as log:
            winograd = os.environ.get("STANTUNE_WINOGRAD", "")
            trained = f"{segment.trial} {segment.stop} {segment.final}"
            log.write(f"{self.name} {self.said} {self.seed} {trained} {winograd}\n")
        killed = self.log.with_name("killed")
        if self.kills == (self.said, segment.trial) and not killed.exists():
            killed.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        iterations = segment.stop - segment.start
        cost = Cost(exact=iterations, exact_seconds=(self.pace + self.seed) * iterations, evaluation_seconds=EVALUATION)
        segment.checkpoint.parent.mkdir(exist_ok=True)
        write_whole(segment.checkpoint, b"")
        error = 10 * segment.params["x"]
        metrics = {"validation error": error}
        if segment.final:
            # What half of the entries cost: 0.5 and 1.5 points, with the first and the second seed.
            metrics["test error"] = error + (0.5 + self.seed if self.said == 0.5 else 0.0)
        return Outcome(segment.stop, metrics, None, False, cost)
