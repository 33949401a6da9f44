"""A training's losses: a compact curve of them, and whether they tell that the training is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# The curve has at most so many points; when it is full, neighbours are put together.
POINTS = 512
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
    """Takes the losses of one training, one after the other, and can be kept and put back."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """Begin, or go on from the `state` of another."""
        state = state or {}
        self._points: list[float] = list(state.get("points", ()))
        self._width: int = state.get("width", 1)
        self._sum: float = state.get("sum", 0.0)
        self._count: int = state.get("count", 0)
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
            "points": list(self._points),
            "width": self._width,
            "sum": self._sum,
            "count": self._count,
            "seen": self._seen,
            "first": self._first,
            "above": self._above,
            "lowest": list(self._lowest),
        }

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The mean loss of each so many, with how many losses there were up to its end; at most POINTS of them."""
        points = [((place + 1) * self._width, mean) for place, mean in enumerate(self._points)]
        if self._count:
            points.append((len(self._points) * self._width + self._count, self._sum / self._count))
        return points

    def diverged(self, loss: float) -> bool:
        """Take the next loss; tell whether the training is lost: it is not finite, or stays far above its beginning."""
        if not math.isfinite(loss):
            return True
        self._sum += loss
        self._count += 1
        if self._count == self._width:
            self._points.append(self._sum / self._width)
            self._sum, self._count = 0.0, 0
            if len(self._points) == POINTS:
                self._points = [(one + other) / 2 for one, other in zip(*[iter(self._points)] * 2, strict=True)]
                self._width *= 2
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
