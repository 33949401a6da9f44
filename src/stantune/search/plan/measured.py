"""Brackets whose first rung is chosen while searching, from how well the rungs have put trials in order.

A bracket that begins lower tries more settings for the same iterations, but its first rung must tell the good ones from
the others. How well it does is measured on the trials that went on: the rank correlation of their errors in a rung and
in the next one. Two things are known of such a number and taken into account. It is of few trials, so it counts as much
as their number says, beside what is supposed of a rung that nobody has measured. And it is of the best alone, among
whom order is harder to see than among all; what it would be among all follows from how large a part went on, as if
errors were normally distributed (Thorndike's case 2).

From that the probability follows that a setting that is good in the next rung goes on to it, averaged over what the
correlation may be. A bracket's yield is how many settings it tries, times these probabilities of its rungs; the bracket
with the largest yield is the next one. It is chosen when all trials before it have ended, from their results alone: so
one seed gives one result, for any number of workers and kills.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, StatisticsError, correlation
from typing import NamedTuple

from stantune.errors import UsageError
from stantune.search.plan.hyperband import Bracket, plan, trained_iterations
from stantune.search.plan.rungs import RungState, rungs_of
from stantune.search.plan.values import TrialRow

# What is supposed of a rung before anything is measured: the correlation among all trials, and how sure that is, as the
# standard deviation of its Fisher transform.
SUPPOSED, UNSURE = 0.5, 0.5
# A good setting is in the middle of the best hundredth.
GOOD = NormalDist().inv_cdf(0.995)
# The variance of a rank correlation's Fisher transform, times the number of pairs less three (Fieller et al., 1957).
_RANKED = 1.06
# A correlation of 1 has no Fisher transform.
_MOST = 0.999
# Equally probable values that a correlation is averaged over.
_AVERAGED = 9


@dataclass(frozen=True)
class OpenBracket(Bracket):
    """A bracket that is not chosen yet; what it says of itself is what the widest of its choices is."""

    choices: tuple[Bracket, ...]


class Order(NamedTuple):
    """How well a rung puts trials in order.

    Attributes:
        correlation: of ranks, of those that went on, in the rung and in the next one; None where they are too few.
        pairs: how many went on and have a result there.
        share: how large a part of those that had not diverged went on.
    """

    correlation: float | None
    pairs: int
    share: float


def measured_plan(
    max_iterations: int, min_iterations: int, eta: int, variant: str, brackets: int | None
) -> tuple[Bracket, ...]:
    """Return so many brackets, all but the first to be chosen among Hyperband's; half as many as these where None.

    The first one is that with most rungs, which measures all of them. Raises UsageError.
    """
    choices = plan(max_iterations, min_iterations, eta, variant)
    count = (len(choices) + 1) // 2 if brackets is None else brackets
    if count < 1:
        raise UsageError(f"`brackets`={brackets} leaves none; give 1 or more")
    return (choices[0], *[OpenBracket(choices[0].s, choices[0].rungs, choices)] * (count - 1))


def is_open(brackets: Sequence[Bracket]) -> bool:
    """Tell whether any bracket of a plan is not chosen yet."""
    return isinstance(brackets[-1], OpenBracket)


def costliest(brackets: Sequence[Bracket]) -> tuple[Bracket, ...]:
    """Return a plan in which what is not chosen yet takes the most iterations that it may."""
    return tuple(
        max(bracket.choices, key=lambda choice: trained_iterations([choice]).continued)
        if isinstance(bracket, OpenBracket)
        else bracket
        for bracket in brackets
    )


def fewest_trials(brackets: Sequence[Bracket]) -> int:
    """Return how many trials a plan has at least."""
    return sum(
        min(choice.rungs[0].trials for choice in bracket.choices)
        if isinstance(bracket, OpenBracket)
        else bracket.rungs[0].trials
        for bracket in brackets
    )


class Choices:
    """Chooses the brackets of a plan as the table of its search grows.

    What it says depends on the table alone; it only remembers what was chosen, which stays.
    """

    def __init__(self, brackets: Sequence[Bracket]) -> None:
        """Begin with a plan, in which everything may be chosen already."""
        self._brackets = tuple(brackets)

    def plan(self, rows: Sequence[TrialRow]) -> tuple[Bracket, ...]:
        """Return the plan with all that can be chosen now."""
        while is_open(self._brackets):
            place = next(i for i, bracket in enumerate(self._brackets) if isinstance(bracket, OpenBracket))
            bracket, before = self._brackets[place], self._brackets[:place]
            assert isinstance(bracket, OpenBracket)
            if len(rows) < sum(of.rungs[0].trials for of in before):
                break
            states = _states(before, rows)
            if any(state.pending for state in states):
                break
            chosen = choose(bracket.choices, _orders(bracket.choices[0], states, rows))
            self._brackets = (*before, chosen, *self._brackets[place + 1 :])
        return self._brackets


def chosen_plan(brackets: Sequence[Bracket], rows: Sequence[TrialRow]) -> tuple[Bracket, ...]:
    """Return a plan with all that is chosen by this table; see Choices."""
    return Choices(brackets).plan(rows)


def orders(brackets: Sequence[Bracket], rows: Sequence[TrialRow]) -> tuple[Order, ...]:
    """Return how well each rung but the last has put trials in order, from the lowest rung on."""
    known = tuple(bracket for bracket in chosen_plan(brackets, rows) if not isinstance(bracket, OpenBracket))
    return _orders(known[0], _states(known, rows), rows)


def choose(choices: Sequence[Bracket], measured: Sequence[Order]) -> Bracket:
    """Return the bracket with the largest yield, of equal ones the first.

    Args:
        choices: from the one with most rungs, which has all of them, to the one with the last rung alone.
        measured: of each rung but the last.
    """
    passing = [_passing(order) for order in measured]
    return max(choices, key=lambda choice: choice.rungs[0].trials * math.prod(passing[len(passing) - choice.s :]))


def _states(brackets: Sequence[Bracket], rows: Sequence[TrialRow]) -> list[RungState]:
    table, states, first = {row.number: row for row in rows}, list[RungState](), 0
    for place, bracket in enumerate(brackets):
        states += rungs_of(bracket, place, first, table)
        first += bracket.rungs[0].trials
    return states


def _orders(widest: Bracket, states: Sequence[RungState], rows: Sequence[TrialRow]) -> tuple[Order, ...]:
    """Return how well the rungs order; trials of all brackets together, since their results can be compared."""
    # That a training was killed says nothing of its setting: it is none of a pair. Up to there it was one of its rung.
    failed = {row.number for row in rows if row.failed is not None}
    errors: list[dict[int, float]] = []
    for rung in widest.rungs:
        there = [state.results for state in states if state.stop == rung.iterations]
        known = [result for results in there for result in results]
        errors.append({number: math.inf if error is None else error for number, error in known})
    found = []
    for here, (rung, after) in enumerate(zip(widest.rungs, widest.rungs[1:], strict=False)):
        through = [state for state in states if state.stop == rung.iterations and not state.pending]
        went_on = [number for state in through for number in state.promoted]
        sound = sum(math.isfinite(error) for error in errors[here].values())
        pairs = [
            (errors[here][number], errors[here + 1][number])
            for number in went_on
            if number in errors[here + 1] and number not in failed
        ]
        share = len(went_on) / sound if went_on else after.trials / rung.trials
        found.append(Order(_ranked(pairs), len(pairs), share))
    return tuple(found)


def _ranked(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation; None where there are too few pairs to say how sure it is."""
    if len(pairs) < 4:
        return None
    try:
        return correlation(*(_ranks(side) for side in zip(*pairs, strict=True)))
    except StatisticsError:
        # One side is all the same, and says nothing.
        return 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal ones have the mean of theirs."""
    order = sorted(values)
    first: dict[float, int] = {}
    for rank, value in enumerate(order):
        first.setdefault(value, rank)
    last = {value: rank for rank, value in enumerate(order)}
    return [(first[value] + last[value]) / 2 for value in values]


def _passing(order: Order) -> float:
    """Return the probability that a setting that is good in the next rung goes on to it."""
    if order.share >= 1:
        return 1.0
    normal = NormalDist()
    limit = normal.inv_cdf(1 - order.share)
    # The standard deviation of the part of a normal distribution that lies above the limit.
    hazard = normal.pdf(limit) / order.share
    narrowed = math.sqrt(1 + limit * hazard - hazard**2)
    # In Fisher's transform of the correlation among those that went on.
    weight = 1 / UNSURE**2
    mean = math.atanh(_among(SUPPOSED, narrowed))
    if order.correlation is not None:
        measured = (order.pairs - 3) / _RANKED
        seen = math.atanh(min(max(order.correlation, -_MOST), _MOST))
        mean, weight = (weight * mean + measured * seen) / (weight + measured), weight + measured
    found = NormalDist(mean, weight**-0.5)
    total = 0.0
    for part in range(_AVERAGED):
        whole = _among(math.tanh(found.inv_cdf((part + 0.5) / _AVERAGED)), 1 / narrowed)
        total += normal.cdf((whole * GOOD - limit) / math.sqrt(1 - whole**2))
    return total / _AVERAGED


def _among(correlated: float, width: float) -> float:
    """Return a correlation among a part of which the first value's standard deviation is so many times as large."""
    return correlated * width / math.sqrt(1 - correlated**2 + (correlated * width) ** 2)
