"""Ends and steps of ranges are met in spite of rounding, and nothing between two steps is taken."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.parameters import Float, Integer
from stantune.search.propose.sampling import to_distribution


def test_ends_are_not_missed_by_rounding() -> None:
    parameter = Float(1e-4, 0.1, log=True)
    assert parameter.check("x", math.exp(math.log(0.1))) == 0.1
    assert parameter.check("x", np.float32(0.1)) == 0.1
    assert parameter.check("x", torch.tensor(1e-4)) == 1e-4
    assert Float(1e-50, 1, log=True).check("x", 1e-50) == 1e-50
    for value in (0.1000001, 0.0, 9.999e-5):
        with pytest.raises(UsageError):
            parameter.check("x", value)
    with pytest.raises(UsageError):
        Float(1e-50, 1, log=True).check("x", 0.0)
    # A whole number that no double holds is the double that it is searched as.
    assert Float(2**53 + 1, 2**54).check("x", 2.0**53) == 2.0**53


def test_an_end_that_is_a_multiple_but_for_rounding_is_one() -> None:
    parameter = Float(0, 3 * 0.1, step=0.1)
    assert parameter == Float(0, 0.3, step=0.1)
    assert parameter.check("x", 3 * 0.1) == parameter.check("x", 0.3) == 0.3
    assert Float(-1.63, -0.07, step=0.12).check("x", -1.63 + 13 * 0.12) == -0.07


@st.composite
def stepped(draw: st.DrawFn) -> Float:
    """Return a range with steps, in round decimals as people write them, or not."""
    if draw(st.booleans()):
        low, step = draw(st.integers(-500, 500)) / 100, draw(st.integers(1, 300)) / 100
        steps = draw(st.integers(0, 60))
        return Float(low, round(low + steps * step, 10), step=step)
    step = draw(st.sampled_from([1, 0.5, 1e-3, 1e5, 2**-10]))
    return Float(0, draw(st.integers(0, 1000)) * step, step=step)


@given(stepped(), st.data())
def test_every_step_is_taken_by_us_and_by_optuna_and_nothing_between(parameter: Float, data: st.DataObject) -> None:
    assert parameter.step is not None
    steps = round((parameter.high - parameter.low) / parameter.step)
    k = data.draw(st.integers(0, steps))
    # As floating point has it, a little off.
    value = parameter.check("x", parameter.low + k * parameter.step)
    assert parameter.low <= value <= parameter.high
    assert parameter.check("x", value) == value == parameter.parse("x", repr(value))
    assert abs(value - (parameter.low + k * parameter.step)) <= 1e-8 * parameter.step
    with warnings.catch_warnings():
        # Optuna would take another end, with a warning.
        warnings.simplefilter("error")
        assert to_distribution(parameter)._contains(value)
    off = parameter.low + (k + data.draw(st.floats(0.1, 0.9))) * parameter.step
    with pytest.raises(UsageError) as error:
        parameter.check("x", off)
    nearest = float(str(error.value).rsplit(" ", 1)[1])
    assert parameter.check("x", nearest) == nearest
    assert nearest == parameter.high or abs(nearest - off) <= 0.51 * parameter.step


@given(st.integers(-100, 100), st.integers(1, 50), st.integers(0, 50), st.integers(-10000, 10000))
def test_whole_steps(low: int, step: int, steps: int, value: int) -> None:
    parameter = Integer(low, low + steps * step, step=step)
    valid = range(low, low + steps * step + 1, step)
    if value in valid:
        assert parameter.check("n", value) == value == parameter.parse("n", str(value))
    else:
        with pytest.raises(UsageError) as error:
            parameter.check("n", value)
        assert int(str(error.value).rsplit(" ", 1)[1]) == min(valid, key=lambda other: (abs(other - value), other))
