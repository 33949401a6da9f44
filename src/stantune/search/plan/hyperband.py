"""Brackets, rungs and promotions in whole numbers: Hyperband's (Li et al., JMLR 18(185), 2018), and a wide one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stantune.errors import UsageError
from stantune.search.plan.values import Result
from stantune.texts import brief

VARIANTS = ("algorithm1", "table1")


@dataclass(frozen=True)
class Rung:
    """A step of a bracket: at most `trials` trials, each trained up to `iterations` iterations in all."""

    iterations: int
    trials: int


@dataclass(frozen=True)
class Bracket:
    """One run of successive halving with `s` promotions, so s + 1 rungs."""

    s: int
    rungs: tuple[Rung, ...]


def stops_of(brackets: Sequence[Bracket]) -> tuple[int, ...]:
    """Return the iterations of every rung of a plan, from the lowest to R: its first bracket has them all."""
    return tuple(rung.iterations for rung in brackets[0].rungs)


def place_of(brackets: Sequence[Bracket], number: int) -> int | None:
    """Return which of the brackets a trial begins in: trials are numbered through them; None beyond the plan."""
    for place, bracket in enumerate(brackets):
        number -= bracket.rungs[0].trials
        if number < 0:
            return place
    return None


def bracket_of(brackets: Sequence[Bracket], number: int) -> Bracket | None:
    """Return the bracket that a trial begins in; None beyond the plan."""
    place = place_of(brackets, number)
    return None if place is None else brackets[place]


class TrainedIterations(NamedTuple):
    """The iterations of a whole plan: continuing each promoted trial, or training it anew in each rung."""

    continued: int
    restarted: int


def plan(
    max_iterations: int,
    min_iterations: int,
    eta: int,
    variant: str = "algorithm1",
    brackets: int | None = None,
) -> tuple[Bracket, ...]:
    """Return the brackets s_max ... 0 for R = `max_iterations` and r = `min_iterations`.

    s_max is the largest s with r eta^s <= R; rung i of bracket s trains up to floor(R / eta^(s-i))
    iterations, of floor(n / eta^i) trials. How n is rounded is the `variant`'s business:

    - "algorithm1": n = ceil((s_max + 1) / (s + 1) eta^s), as the paper's Algorithm 1 says;
    - "table1": n = floor((s_max + 1) / (s + 1)) eta^s, which gives the numbers that the paper's Table 1
      prints (81, 27, 9, 6, 5 for R = 81 and eta = 3).

    `brackets` runs only the first so many, those that stop earliest. Raises UsageError.
    """
    if eta < 2:
        raise UsageError(f"`eta`={eta} is too small: one trial of `eta` is promoted in each rung; give 2 or more")
    if min_iterations < 1:
        raise UsageError(f"`min_resource`={min_iterations} is too small: a rung trains at least 1 iteration")
    if min_iterations > max_iterations:
        raise UsageError(
            f"`min_resource`={min_iterations} is above `max_resource`={max_iterations}; give {max_iterations} or less"
        )
    if variant not in VARIANTS:
        raise UsageError(f"`variant`={brief(variant)} is unknown; give {' or '.join(VARIANTS)}")
    s_max = 0
    while min_iterations * eta ** (s_max + 1) <= max_iterations:
        s_max += 1
    if brackets is not None and not 1 <= brackets <= s_max + 1:
        raise UsageError(f"`brackets`={brackets} is not there: this search has {s_max + 1}; give 1 to {s_max + 1}")
    planned = []
    for s in range(s_max, s_max - (s_max + 1 if brackets is None else brackets), -1):
        ceiling, floor = -(-(s_max + 1) * eta**s // (s + 1)), (s_max + 1) // (s + 1) * eta**s
        trials = ceiling if variant == "algorithm1" else floor
        rungs = tuple(Rung(max_iterations // eta ** (s - i), trials // eta**i) for i in range(s + 1))
        planned.append(Bracket(s, rungs))
    return tuple(planned)


def wide_plan(max_iterations: int, min_iterations: int, eta: int, trials: int | None = None) -> Bracket:
    """Return one bracket from the lowest rung, for R = `max_iterations` and r = `min_iterations`.

    Its rungs are those of Hyperband's bracket with most rungs, s_max + 1 of them, of floor(n / eta^i) trials each. n is
    `trials`; where None, ceil((s_max + 1) / 2) eta^s_max, which come to about half the iterations of Hyperband's
    brackets. Raises UsageError.
    """
    (widest,) = plan(max_iterations, min_iterations, eta, brackets=1)
    first = (widest.s + 2) // 2 * eta**widest.s if trials is None else trials
    if first < eta**widest.s:
        raise UsageError(
            f"`trials`={trials} is too few: one of {eta**widest.s} gets to {max_iterations} iterations; give that or "
            "more, or a larger `min_resource`"
        )
    return Bracket(widest.s, tuple(Rung(rung.iterations, first // eta**i) for i, rung in enumerate(widest.rungs)))


def promote(results: Sequence[Result], keep: int) -> tuple[int, ...]:
    """Return the numbers of the at most `keep` trials that go on, best first.

    The lowest error comes first, equal errors in the order of the trial numbers. A diverged trial ranks
    last and never goes on, so fewer than `keep` may be returned.
    """
    ranked = sorted(
        (result.error, result.number) for result in results if result.error is not None and not result.diverged
    )
    return tuple(number for _, number in ranked[:keep])


def trained_iterations(brackets: Sequence[Bracket]) -> TrainedIterations:
    """Add up the iterations of a plan in which no trial diverges."""
    continued = restarted = 0
    for bracket in brackets:
        before = 0
        for rung in bracket.rungs:
            continued += rung.trials * (rung.iterations - before)
            restarted += rung.trials * rung.iterations
            before = rung.iterations
    return TrainedIterations(continued, restarted)
