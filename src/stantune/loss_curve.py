"""A training's losses as a curve of few points: the mean of every so many, of twice as many when there is no room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# While a training runs there are at most so many points, and in what is kept of it at most so many.
POINTS = 512
KEPT = 128
# What is larger counts as this, so that no sum of losses overflows.
LARGEST = 1e300


class LossCurve(NamedTuple):
    """What is kept of a training's losses, in plain values.

    Attributes:
        every: how many losses each mean is of; the last one may be of fewer.
        end: how many losses there were.
        means: six digits of each.
        begin: how many of the first losses nobody noted.
    """

    every: int = 1
    end: int = 0
    means: tuple[float, ...] = ()
    begin: int = 0

    @property
    def points(self) -> list[tuple[int, float]]:
        """How many losses there were, and the mean of those since the point before."""
        return [(min(self.begin + (place + 1) * self.every, self.end), mean) for place, mean in enumerate(self.means)]

    def after(self, end: int) -> list[tuple[int, float]]:
        """Return the points behind so many losses."""
        return [point for point in self.points if point[0] > end]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**self._asdict(), "means": list(self.means)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> LossCurve:
        """Return what `plain` was made of."""
        return cls(plain["every"], plain["end"], tuple(plain["means"]), plain["begin"])


NO_LOSSES = LossCurve()


class LossMeans:
    """Takes the losses of one training, one after the other, and can be kept and put back."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """Begin, or go on from the `state` of another; `{"begin": 5}` begins behind five losses that are not known."""
        state = state or {}
        self._begin: int = state.get("begin", 0)
        self._points: list[float] = list(state.get("points", ()))
        self._width: int = state.get("width", 1)
        self._sum: float = state.get("sum", 0.0)
        self._count: int = state.get("count", 0)

    @property
    def state(self) -> dict[str, Any]:
        """All that a training that goes on needs, in plain values."""
        return {
            "begin": self._begin,
            "points": list(self._points),
            "width": self._width,
            "sum": self._sum,
            "count": self._count,
        }

    def take(self, loss: float) -> None:
        """Take the next loss, which is finite."""
        self._sum += loss if -LARGEST < loss < LARGEST else LARGEST if loss > 0 else -LARGEST
        self._count += 1
        if self._count == self._width:
            self._points.append(self._sum / self._width)
            self._sum, self._count = 0.0, 0
            if len(self._points) == POINTS:
                self._points = [(one + other) / 2 for one, other in zip(*[iter(self._points)] * 2, strict=True)]
                self._width *= 2

    @property
    def points(self) -> list[tuple[int, float]]:
        """How many losses there were up to each point, and the mean of those since the one before; POINTS at most."""
        points = [(self._begin + (place + 1) * self._width, mean) for place, mean in enumerate(self._points)]
        if self._count:
            points.append((self._begin + len(self._points) * self._width + self._count, self._sum / self._count))
        return points

    @property
    def curve(self) -> LossCurve:
        """What is kept of them: the same points, as many of them together as it takes to have KEPT at most."""
        points, together = self.points, 1
        while len(points) > KEPT * together:
            together *= 2
        means = []
        for place in range(0, len(points), together):
            total = weight = 0.0
            before = points[place - 1][0] if place else self._begin
            for at, mean in points[place : place + together]:
                total += mean * (at - before)
                weight += at - before
                before = at
            means.append(float(f"{total / weight:.6g}"))
        end = points[-1][0] if points else self._begin
        return LossCurve(self._width * together, end, tuple(means), self._begin)
