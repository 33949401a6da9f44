"""A function's losses: their curve, and whether they tell that the training is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stantune.loss_curve import LossMeans

# What a loss begins with is the largest of so many.
FIRST = 50
# Nobody knows what a function's loss is (a likelihood, a game's, one that grows as it learns), so that only what cannot
# be an ordinary training is called lost: a loss that stays so many times above its beginning, for so many losses in a
# row, and whose lowest in the second half of these is no lower than in the first.
MULTIPLE = 1000.0
PATIENCE = 400
# The least that counts as falling.
_FALL = 0.999


class Losses:
    """Takes the losses of one training, one after the other, and can be kept and put back.

    Attributes:
        means: their curve.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """Begin, or go on from the `state` of another."""
        state = state or {}
        self.means = LossMeans(state)
        # The guard's: losses seen (up to FIRST), the largest of these, losses in a row above the limit, and the lowest
        # of the first and of the second half of those.
        self._seen: int = state.get("seen", 0)
        self._first: float = state.get("first", 0.0)
        self._above: int = state.get("above", 0)
        self._lowest: list[float] = list(state.get("lowest", (math.inf, math.inf)))

    @property
    def state(self) -> dict[str, Any]:
        """All that a training that goes on needs, in plain values."""
        return {
            **self.means.state,
            "seen": self._seen,
            "first": self._first,
            "above": self._above,
            "lowest": list(self._lowest),
        }

    def diverged(self, loss: float) -> bool:
        """Take the next loss; tell whether the training is lost: it is not finite, or stays far above its beginning."""
        if not math.isfinite(loss):
            return True
        self.means.take(loss)
        if self._seen < FIRST:
            self._seen += 1
            self._first = max(self._first, abs(loss))
            return False
        # A loss that begins at nothing has no size to be compared with.
        if not self._first or loss <= MULTIPLE * self._first:
            self._above = 0
            return False
        return self._stays_above(loss)

    def _stays_above(self, loss: float) -> bool:
        if not self._above:
            self._lowest = [math.inf, math.inf]
        self._above += 1
        half = self._above > PATIENCE // 2
        self._lowest[half] = min(self._lowest[half], loss)
        if self._above < PATIENCE:
            return False
        if self._lowest[1] >= _FALL * self._lowest[0]:
            return True
        # It falls: it has as much time again.
        self._above = 0
        return False
