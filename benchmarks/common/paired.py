"""What is paired by seed: means of differences and of ratios, with Student's interval of 95 %."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t as student

NOTHING = "–"


class Interval(NamedTuple):
    """A mean and the ends of its interval, which one value or two have not: nan."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of one value or more, with its interval where there are three or more.

    Of two it would be Student's with one degree of freedom, which says nothing that anybody could use.
    """
    mean = statistics.fmean(values)
    if len(values) < 3:
        return Interval(mean, math.nan, math.nan)
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def difference_text(values: Sequence[float]) -> str:
    """Return "+0.21 ± 0.10"; the mean alone of one or two values, and "–" for none."""
    if not values:
        return NOTHING
    mean, low, high = interval(values)
    return f"{mean:+.2f}" if math.isnan(low) else f"{mean:+.2f} ± {(high - low) / 2:.2f}"


def ratio_interval(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of one ratio or more, all above 0, with its interval."""
    return Interval(*map(math.exp, interval([math.log(ratio) for ratio in ratios])))


def ratio_text(ratios: Sequence[float]) -> str:
    """Return "1.90 (1.80 … 2.01)"; the mean alone of one or two ratios, and "–" for none."""
    if not ratios:
        return NOTHING
    mean, low, high = ratio_interval(ratios)
    return f"{mean:.2f}" if math.isnan(low) else f"{mean:.2f} ({low:.2f} … {high:.2f})"
