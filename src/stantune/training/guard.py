"""The divergence guard: notices within a few iterations that a training is lost, by its losses alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# A loss is high above so many times what the training began with, or what a network that knows nothing has, if that is
# more. One that was high for so many iterations in a row has left the region that training starts from; a spike of a
# few iterations passes.
MULTIPLE = 10.0
PATIENCE = 20
# A network may be trained at a high loss all the same: large inputs and a large rate make large outputs, right or
# wrong. So nothing is lost while the loss falls: while, of the last ten losses, eight are lower than the one five
# iterations before, or than the one ten before (of losses that only scatter that is so one time in fourteen) …
RECENT = 10
LOWER = 8
LAGS = (5, 10)
# … nor once it has fallen: while the mean of the last ten is below this share of the highest that it has been.
COME_DOWN = 0.5


class Guard:
    """Follows the training loss of one trial; what it says is a function of the losses alone."""

    def __init__(self, chance: float | None) -> None:
        """Begin; `chance` is the loss of a network that knows nothing, None where nobody can say what is too high."""
        self._chance = chance
        # The first loss of all; the high ones in a row up to now, PATIENCE at most; the highest mean of RECENT of them.
        self._first: float | None = None
        self._high: list[float] = []
        self._peak = 0.0

    @property
    def limit(self) -> float:
        """Above it a loss is high; infinity where nobody can say."""
        return math.inf if self._chance is None else MULTIPLE * max(self._chance, self._first or 0.0)

    @property
    def state(self) -> dict[str, Any]:
        """All that a training that goes on needs, in plain values."""
        return {"first": self._first, "high": list(self._high), "peak": self._peak}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another."""
        self._first, self._high, self._peak = state["first"], list(state["high"]), state["peak"]

    def diverged(self, loss: float) -> bool:
        """Take the next iteration's loss; tell whether the trial is lost: it is no number, or stays high."""
        if not math.isfinite(loss):
            return True
        if self._first is None:
            self._first = loss
        if loss <= self.limit:
            self._high.clear()
            return False
        self._high = [*self._high[1 - PATIENCE :], loss]
        recent = self._high[-RECENT:]
        if len(recent) < RECENT:
            return False
        mean, peak = sum(recent) / RECENT, self._peak
        self._peak = max(mean, peak)
        return len(self._high) == PATIENCE and mean >= COME_DOWN * peak and not self._falls(recent)

    def _falls(self, recent: list[float]) -> bool:
        """Tell whether the loss falls; all PATIENCE losses are there."""
        for lag in LAGS:
            earlier = self._high[-RECENT - lag : -lag]
            if sum(now < before for now, before in zip(recent, earlier, strict=True)) >= LOWER:
                return True
        return False
