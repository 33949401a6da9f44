"""Caffe's learning-rate policies that the built-in networks do not need; `fixed`, `inv` and `multistep` are theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from stantune.arguments import shown
from stantune.errors import UsageError


@dataclass(frozen=True)
class Steps:
    """Caffe's `step`: the rate is multiplied by gamma after each `stepsize` iterations."""

    stepsize: float
    gamma: float

    def __post_init__(self) -> None:
        _above_zero("The stepsize of a step policy", self.stepsize)
        _above_zero("The gamma of a step policy", self.gamma)

    def factor(self, iteration: int) -> float:
        """Return gamma to the number of steps that lie at or before this iteration."""
        return _power(self.gamma, math.floor(iteration / self.stepsize))

    def scaled(self, factor: Fraction) -> Steps:
        """Return the policy with steps `factor` times as long."""
        return Steps(float(Fraction(self.stepsize) * factor), self.gamma)


@dataclass(frozen=True)
class Exponential:
    """Caffe's `exp`: gamma^iteration."""

    gamma: float

    def __post_init__(self) -> None:
        _above_zero("The gamma of an exp policy", self.gamma)

    def factor(self, iteration: int) -> float:
        """Return gamma^iteration."""
        return _power(self.gamma, iteration)

    def scaled(self, factor: Fraction) -> Exponential:
        """Return the policy that is at iteration factor · i where this one is at i."""
        return Exponential(_power(self.gamma, float(1 / factor)))


@dataclass(frozen=True)
class Polynomial:
    """Caffe's `poly`: (1 - iteration / length)^power; after the last of `length` iterations what it was in that."""

    power: float
    length: int

    def __post_init__(self) -> None:
        _finite("The power of a poly policy", self.power)
        _above_zero("The length of a poly policy", self.length)

    def factor(self, iteration: int) -> float:
        """Return (1 - iteration / length)^power."""
        return _power(1.0 - min(iteration, self.length - 1) / self.length, self.power)

    def scaled(self, factor: Fraction) -> Polynomial:
        """Return the same course in a run that is `factor` times as long."""
        return Polynomial(self.power, math.ceil(self.length * factor))


@dataclass(frozen=True)
class Logistic:
    """Caffe's `sigmoid`: 1 / (1 + exp(-gamma · (iteration - stepsize))); with a gamma below 0 the rate falls."""

    gamma: float
    stepsize: float

    def __post_init__(self) -> None:
        _finite("The gamma of a sigmoid policy", self.gamma)
        _finite("The stepsize of a sigmoid policy", self.stepsize)

    def factor(self, iteration: int) -> float:
        """Return 1 / (1 + exp(-gamma · (iteration - stepsize)))."""
        grown = _power(math.e, -self.gamma * (iteration - self.stepsize))
        return 1.0 / (1.0 + grown)

    def scaled(self, factor: Fraction) -> Logistic:
        """Return the policy that is at iteration factor · i where this one is at i."""
        return Logistic(float(Fraction(self.gamma) / factor), float(Fraction(self.stepsize) * factor))


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _finite(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{what} is {shown(value)}: take a finite number.")


def _above_zero(what: str, value: float) -> None:
    _finite(what, value)
    if value <= 0:
        raise UsageError(f"{what} is {shown(value)}: take a number above 0.")
