"""How the learning rate changes in the course of a run: Caffe's policies, and schedules of a run's own length."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, runtime_checkable

from stantune.arguments import shown
from stantune.errors import UsageError


class Policy(Protocol):
    """How the learning rate changes in the course of a run."""

    def factor(self, iteration: int) -> float:
        """Return what the base rate is multiplied by in this iteration (counted from 0); above 0."""
        ...

    def scaled(self, factor: Fraction) -> Policy:
        """Return the same course in a run that is `factor` times as long; `factor` is above 0."""
        ...


@dataclass(frozen=True)
class Fixed:
    """A constant rate, Caffe's `fixed`."""

    def factor(self, iteration: int) -> float:
        """Return 1."""
        return 1.0

    def scaled(self, factor: Fraction) -> Fixed:
        """Return the same: a constant rate knows no time."""
        return self


@dataclass(frozen=True)
class Inv:
    """Caffe's `inv`: (1 + gamma · iteration)^-power."""

    gamma: float
    power: float

    def __post_init__(self) -> None:
        number("The gamma of an inv policy", self.gamma)
        number("The power of an inv policy", self.power)

    def factor(self, iteration: int) -> float:
        """Return (1 + gamma · iteration)^-power."""
        return float((1.0 + self.gamma * iteration) ** -self.power)

    def scaled(self, factor: Fraction) -> Inv:
        """Return the policy with gamma / factor, which is at iteration factor · i where this one is at i."""
        return Inv(float(Fraction(self.gamma) / factor), self.power)


@dataclass(frozen=True)
class MultiStep:
    """Caffe's `multistep`: the rate is multiplied by gamma at each milestone, from that very iteration on."""

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if number("The gamma of a multistep policy", self.gamma) == 0.0:
            raise UsageError("The gamma of a multistep policy is 0: take more, since nothing trains at a rate of 0.")

    def factor(self, iteration: int) -> float:
        """Return gamma to the number of milestones that lie at or before this iteration."""
        return float(self.gamma ** sum(milestone <= iteration for milestone in self.milestones))

    def scaled(self, factor: Fraction) -> MultiStep:
        """Return the policy with each milestone m at factor · m, or in the first iteration after it; exact integers."""
        return MultiStep(tuple(math.ceil(milestone * factor) for milestone in self.milestones), self.gamma)


@runtime_checkable
class Relative(Protocol):
    """A policy that is stretched over a run of any length, whatever that is."""

    def over(self, length: int) -> Policy:
        """Return the course in a run of so many iterations."""
        ...


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to `floor`, over the whole run.

    `length` is the run's; None until `over` says it. After the run's end the rate stays what it was in the last
    iteration.
    """

    floor: float = 0.0
    length: int | None = None

    def __post_init__(self) -> None:
        _share("The floor of a cosine schedule", self.floor)

    def factor(self, iteration: int) -> float:
        """Return the factor; above 0 in each iteration of the run."""
        length = _known(self, self.length)
        done = min(iteration, length - 1) / length
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done))

    def over(self, length: int) -> Cosine:
        """Return the course of a run of so many iterations."""
        return replace(self, length=length)

    def scaled(self, factor: Fraction) -> Cosine:
        """Return the same course in a run that is `factor` times as long."""
        return self if self.length is None else self.over(math.ceil(self.length * factor))


@dataclass(frozen=True)
class OneCycle:
    """Up from `start` to 1 in the share `rise` of the run, and down to `end`, each along half a cosine.

    `length` is as Cosine's.
    """

    rise: float = 0.3
    start: float = 0.04
    end: float = 1e-4
    length: int | None = None

    def __post_init__(self) -> None:
        for name in ("rise", "start", "end"):
            if _share(f"The {name} of a one-cycle schedule", getattr(self, name)) == 0.0:
                raise UsageError(f"The {name} of a one-cycle schedule is 0: take more, up to, not including, 1.")

    def factor(self, iteration: int) -> float:
        """Return the factor."""
        length = _known(self, self.length)
        done = min(iteration, length - 1) / length
        if done < self.rise:
            return _between(self.start, 1.0, done / self.rise)
        return _between(1.0, self.end, (done - self.rise) / (1.0 - self.rise))

    def over(self, length: int) -> OneCycle:
        """Return the course of a run of so many iterations."""
        return replace(self, length=length)

    def scaled(self, factor: Fraction) -> OneCycle:
        """Return the same course in a run that is `factor` times as long."""
        return self if self.length is None else self.over(math.ceil(self.length * factor))


@dataclass(frozen=True)
class Step:
    """The rate is multiplied by `gamma` after each share `every` of the run.

    `length` is as Cosine's.
    """

    every: float = 1 / 3
    gamma: float = 0.1
    length: int | None = None

    def __post_init__(self) -> None:
        if (
            _share("The share of a run between steps", self.every) == 0.0
            or number("The gamma of steps", self.gamma) == 0
        ):
            raise UsageError("A step schedule has every=0 or gamma=0: take more, since nothing trains at a rate of 0.")

    def factor(self, iteration: int) -> float:
        """Return gamma to the number of steps that lie at or before this iteration."""
        length = _known(self, self.length)
        return float(self.gamma ** int(min(iteration, length - 1) / (self.every * length)))

    def over(self, length: int) -> Step:
        """Return the course of a run of so many iterations."""
        return replace(self, length=length)

    def scaled(self, factor: Fraction) -> Step:
        """Return the same course in a run that is `factor` times as long."""
        return self if self.length is None else self.over(math.ceil(self.length * factor))


@dataclass(frozen=True)
class WarmUp:
    """Another policy, whose rate rises from nearly 0 in a straight line in the first share `share` of the run.

    `length` is as Cosine's.
    """

    share: float = 0.05
    then: Policy = Fixed()
    length: int | None = None

    def __post_init__(self) -> None:
        _share("The warm-up of a schedule", self.share)

    def factor(self, iteration: int) -> float:
        """Return the other policy's factor, less in the beginning."""
        rising = round(self.share * _known(self, self.length))
        return min(1.0, (iteration + 1) / (rising + 1)) * self.then.factor(iteration)

    def over(self, length: int) -> WarmUp:
        """Return the course of a run of so many iterations."""
        return WarmUp(self.share, over(self.then, length), length)

    def scaled(self, factor: Fraction) -> WarmUp:
        """Return the same course in a run that is `factor` times as long."""
        length = None if self.length is None else math.ceil(self.length * factor)
        return WarmUp(self.share, self.then.scaled(factor), length)


SCHEDULES: Mapping[str, Callable[[], Policy]] = {
    "fixed": Fixed,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "step": Step,
    "warm-up": WarmUp,
}


def policy_of(given: str | Policy) -> Policy:
    """Return the schedule of this name, or a policy as it is; raises UsageError where there is none."""
    if not isinstance(given, str):
        if isinstance(given, type) or not callable(getattr(given, "factor", None)):
            raise UsageError(f"{shown(given)} is no schedule: take {', '.join(SCHEDULES)}, or give a policy")
        return given
    if given not in SCHEDULES:
        raise UsageError(f"no schedule is called {shown(given)}: take {', '.join(SCHEDULES)}, or give a policy")
    return SCHEDULES[given]()


def over(policy: Policy, length: int) -> Policy:
    """Return the policy in a run of so many iterations; one that has its own times as it is."""
    return policy.over(length) if isinstance(policy, Relative) else policy


def _between(one: float, other: float, done: float) -> float:
    return other + (one - other) * 0.5 * (1.0 + math.cos(math.pi * done))


def _known(policy: Policy, length: int | None) -> int:
    if length is None:
        raise UsageError(f"{type(policy).__name__} does not know how long the run is: call its over(length).")
    return max(length, 1)


def _share(what: str, value: object) -> float:
    """Return `value` as a float; raise UsageError, naming it as `what`, unless it is in [0, 1)."""
    share = number(what, value)
    if share >= 1.0:
        raise UsageError(f"{what} is {value!r}: take a share from 0 up to, not including, 1.")
    return share


def number(what: str, value: object) -> float:
    """Return `value` as a float; raise UsageError, naming it as `what`, unless it is finite and 0 or more."""
    # A whole number may be larger than any double.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= sys.float_info.max:
        raise UsageError(f"{what} is {shown(value)}: take a finite number of 0 or more.")
    return float(value)
