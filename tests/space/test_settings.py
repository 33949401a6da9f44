"""Settings are checked and parsed: a refusal names the parameter, the value and the nearest valid one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer
from stantune.space import Space

SPACE = Space(
    {
        "lr": Float(5e-5, 5, log=True),
        "conv1_l2": Float(5e-5, 5, log=True),
        "hidden": Integer(100, 8192),
        "pool": Categorical(("max", "average", None, True, 2)),
    }
)
SETTING = {"lr": 0.01, "conv1_l2": 1.0, "hidden": 500, "pool": "max"}


def test_a_good_setting_comes_back_in_order_and_kind() -> None:
    checked = SPACE.check({"pool": None, "hidden": 100, "conv1_l2": 5e-5, "lr": 5}, complete=True)
    assert list(checked) == list(SPACE)
    assert checked == {"lr": 5.0, "conv1_l2": 5e-5, "hidden": 100, "pool": None}
    assert type(checked["lr"]) is float


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lr", 7, "lr is 7, outside its range from 5e-05 to 5; the nearest valid value is 5$"),
        ("lr", 0.0, "lr is 0.0, .* nearest valid value is 5e-05$"),
        ("lr", -math.inf, "lr is -inf, .* nearest valid value is 5e-05$"),
        ("lr", math.nan, "lr is nan, but it is a number from 5e-05 to 5$"),
        ("lr", True, "lr is True, but it is a number"),
        ("lr", "0.1", "lr is '0.1', but it is a number"),
        ("hidden", 99, "hidden is 99, .* nearest valid value is 100$"),
        ("hidden", 9000, "hidden is 9000, .* nearest valid value is 8192$"),
        ("hidden", 120.4, "hidden is 120.4, but it is a whole number .* nearest valid value is 120$"),
        ("hidden", 1e9, "nearest valid value is 8192$"),
        ("hidden", math.nan, "hidden is nan, but it is a whole number from 100 to 8192$"),
        ("hidden", False, "hidden is False"),
        ("pool", "avrage", "pool is 'avrage', but it is one of max, average, None, True, 2; the nearest is average$"),
        ("pool", 1, "pool is '1', but it is one of"),
        ("conv_l2", 1.0, "no parameter 'conv_l2': the space has lr, .*; the nearest is conv1_l2$"),
        ("zzz", 1.0, "no parameter 'zzz': the space has lr, conv1_l2, hidden, pool$"),
    ],
)
def test_bad_values(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SPACE.check({**SETTING, name: value})


def test_completeness() -> None:
    assert SPACE.check({"lr": 1.0}) == {"lr": 1.0}
    with pytest.raises(UsageError, match="the setting lacks conv1_l2, pool: give a value"):
        SPACE.check({"lr": 1.0, "hidden": 100}, complete=True)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-2", 0.01),
        ("lr", "5", 5.0),
        ("hidden", "1e2", 100),
        ("hidden", "8192", 8192),
        ("pool", "MAX", "max"),
        ("pool", "none", None),
        ("pool", "true", True),
        ("pool", "2", 2),
    ],
)
def test_parsing(name: str, text: str, value: Any) -> None:
    parsed = SPACE.parse(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("lr", "fast", "lr is 'fast', but it is a number from 5e-05 to 5"),
        ("lr", "50", "nearest valid value is 5$"),
        ("hidden", "100.5", "hidden is 100.5, but it is a whole number"),
        ("hidden", "inf", "hidden is inf, but it is a whole number"),
        ("hidden", "many", "hidden is 'many'"),
        ("pool", "min", "pool is 'min', but it is one of"),
        ("lrr", "1", "no parameter 'lrr': .*; the nearest is lr$"),
    ],
)
def test_bad_texts(name: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SPACE.parse(name, text)


@given(st.floats(allow_nan=False))
def test_every_number_is_taken_or_gets_a_valid_nearest_one(value: float) -> None:
    parameter = Float(-3.5, 12.25)
    try:
        taken = parameter.check("x", value)
        # What rounding puts just outside is taken as the end.
        assert taken == value or (taken in (-3.5, 12.25) and math.isclose(taken, value))
        assert -3.5 <= taken <= 12.25
    except UsageError as error:
        nearest = float(str(error).rsplit(" ", 1)[1])
        assert parameter.check("x", nearest) == nearest
        assert not -3.5 <= value <= 12.25


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_parse_as_they_print(value: int) -> None:
    assert Integer(-(2**53), 2**53).parse("n", str(value)) == value
