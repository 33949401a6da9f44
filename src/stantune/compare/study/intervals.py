"""Means over a few seeds and how sure they are: Student's t. Pure numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from stantune.compare.study.contract import Interval

SURE = 0.95


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values, their spread, and where the mean is sure to lie."""
    count = len(values)
    mean = statistics.fmean(values) if values else None
    if mean is None or count < 2:
        return Interval(mean=mean, spread=None, low=None, high=None, seeds=count)
    spread = statistics.stdev(values)
    reach = quantile(count - 1) * spread / math.sqrt(count)
    return Interval(mean=mean, spread=spread, low=mean - reach, high=mean + reach, seeds=count)


def ratios(values: Sequence[float]) -> Interval:
    """Return the same of ratios, by their logarithms: twice as fast and half as fast are even."""
    found = interval([math.log(value) for value in values])
    turned = {name: value if value is None else math.exp(value) for name, value in found if name in _TURNED}
    return found.model_copy(update=turned)


_TURNED = ("mean", "low", "high")


def quantile(freedom: int, sure: float = SURE) -> float:
    """Return t with P(|T| < t) = `sure` of Student's distribution with so many degrees of freedom."""
    low, high = 0.0, 1.0
    while within(high, freedom) < sure:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < sure else (low, middle)
    return high


def within(t: float, freedom: int) -> float:
    """Return P(|T| < t): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = 1.0
    for step in range(1, (freedom - 1) // 2 if odd else freedom // 2):
        term *= square * (2 * step) / (2 * step + 1) if odd else square * (2 * step - 1) / (2 * step)
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * math.cos(angle) * total if freedom > 1 else 0.0))
