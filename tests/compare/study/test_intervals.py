"""Means over a few seeds and their intervals, against tables and a closed form."""

from __future__ import annotations

import math

import pytest

from stantune.compare.study.intervals import interval, quantile, ratios, within


# Student's t, 97.5 %, from printed tables.
@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (30, 2.0423)]
)
def test_the_quantile_is_that_of_tables(freedom: int, value: float) -> None:
    assert quantile(freedom) == pytest.approx(value, abs=5e-5)
    assert within(quantile(freedom), freedom) == pytest.approx(0.95)


def test_an_interval() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.spread, found.seeds) == (2.0, 1.0, 3)
    assert found.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)
    assert found.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4)


def test_too_few_values() -> None:
    one, none = interval([1.5]), interval([])
    assert (one.mean, one.spread, one.low, one.high, one.seeds) == (1.5, None, None, None, 1)
    assert (none.mean, none.low, none.seeds) == (None, None, 0)


def test_twice_and_half_as_fast_are_even() -> None:
    found = ratios([2.0, 0.5])
    assert found.mean == pytest.approx(1.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(1.0)
    assert ratios([2.0, 2.0]).high == pytest.approx(2.0)
    assert ratios([]).mean is None
