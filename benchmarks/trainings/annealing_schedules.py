"""What annealing.py compares: schedules of a training's rate, length and images, and the kinds of their iterations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from stantune.images.problem.built_in import Problem
from stantune.stan.config import ANNEALED, Stan

RESIZED = ("residual8",)
LENGTHS = tuple(Fraction(tenths, 10) for tenths in (4, 5, 6, 7, 8, 9))
SIDE = 32

Course = tuple[tuple[Fraction, float], ...]


class Kind(NamedTuple):
    """Iterations that take the same time: under this rate and period, in these layers, on images of this side."""

    rate: float
    period: int | None
    layers: str
    side: int

    @property
    def name(self) -> str:
        """Its name in the file."""
        return f"{self.rate:g}/{_text(self.period)} {self.layers} {self.side}" if self.rate < 1 else f"1 {self.side}"


@dataclass(frozen=True)
class Schedule:
    """One way of training.

    Attributes:
        name: in tables and in the file; unique.
        rates: (from which share of the training on, rate).
        period: of the reduced iterations; None for no exact ones between them.
        layers: "all", or "default" for those that the problem names.
        sides: (from which share of the training on, side of the images).
        length: share of the problem's iterations that it has, the course of its rate of learning scaled.
    """

    name: str
    rates: Course = ((Fraction(0), 1.0),)
    period: int | None = 1
    layers: str = "all"
    sides: tuple[tuple[Fraction, int], ...] = ((Fraction(0), SIDE),)
    length: Fraction = Fraction(1)

    def stan(self, problem: Problem, iterations: int) -> Stan:
        """Return STAN's settings of a training of so many iterations."""
        starts = {math.ceil(share * iterations): rate for share, rate in self.rates}
        one = len(starts) == 1
        return Stan(
            rate=self.rates[0][1] if one else tuple(starts.items()),
            period=self.period,
            iterations=iterations,
            layers=problem.stan_layers if self.layers == "default" else ("*",),
        )

    @property
    def kinds(self) -> dict[Kind, Fraction]:
        """The kinds of its iterations, with their shares of the problem's iterations."""
        shares: dict[Kind, Fraction] = {}
        edges = [*sorted({start for start, _ in (*self.rates, *self.sides)}), Fraction(1)]
        for start, stop in itertools.pairwise(edges):
            rate, side = value_at(self.rates, start), value_at(self.sides, start)
            kind = Kind(rate, self.period, self.layers, side) if rate < 1 else Kind(1.0, 1, "all", side)
            shares[kind] = shares.get(kind, Fraction(0)) + (stop - start) * self.length
        return shares


def _schedules() -> Iterator[Schedule]:
    zero, half = Fraction(0), Fraction(1, 2)
    yield Schedule("exact")
    yield Schedule("half, default layers /1", ((zero, 0.5),), 1, "default")
    courses: dict[str, Course] = {
        "annealed": ANNEALED,
        "quarter, exact from 1/2": ((zero, 0.25), (half, 1.0)),
        "quarter": ((zero, 0.25),),
        "half": ((zero, 0.5),),
        "half, exact from 1/2": ((zero, 0.5), (half, 1.0)),
        "quarter, exact from 2/3": ((zero, 0.25), (Fraction(2, 3), 1.0)),
        "quarter, half from 1/9, exact from 1/3": ((zero, 0.25), (Fraction(1, 9), 0.5), (Fraction(1, 3), 1.0)),
        "quarter, half from 1/2, exact from 9/10": ((zero, 0.25), (half, 0.5), (Fraction(9, 10), 1.0)),
    }
    for name, rates in courses.items():
        for period in (1, None):
            yield Schedule(f"{name} /{_text(period)}", rates, period)


def _text(period: int | None) -> str:
    return "none" if period is None else str(period)


def value_at(course: Sequence[tuple[Any, Any]], place: Fraction | int) -> Any:
    """Return what holds at this share of the training, or at this iteration."""
    return next(value for start, value in reversed(course) if start <= place)


SCHEDULES = tuple(_schedules())
SHORTER = tuple(Schedule(f"exact, {float(length):g} as long", length=length) for length in LENGTHS)
_TWO = {
    f"{side}x{side} until {until}": ((Fraction(0), side), (until, SIDE))
    for side, until in ((16, Fraction(1, 3)), (16, Fraction(1, 2)), (16, Fraction(2, 3)), (24, Fraction(1, 2)))
}
SMALLER = tuple(Schedule(name, sides=sides) for name, sides in _TWO.items())
_HALF_SMALL = _TWO["16x16 until 1/2"]
BOTH = (
    Schedule("16x16 and quarter until 1/2 /1", ((Fraction(0), 0.25), (Fraction(1, 2), 1.0)), 1, sides=_HALF_SMALL),
    Schedule(
        "16x16 until 1/3, quarter until 2/3 /1",
        ((Fraction(0), 1.0), (Fraction(1, 3), 0.25), (Fraction(2, 3), 1.0)),
        1,
        sides=_TWO["16x16 until 1/3"],
    ),
)


def schedules_of(problem: Problem) -> list[Schedule]:
    """Return what is trained of a problem."""
    own = [each for each in SCHEDULES if each.layers == "all" or problem.stan_layers != ("*",)]
    return [*own[:3], *SHORTER, *own[3:], *((*SMALLER, *BOTH) if problem.name in RESIZED else ())]
