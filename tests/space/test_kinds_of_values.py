"""Values of NumPy, PyTorch and enumerations, and choices of any kind, are Python's plain ones."""

from __future__ import annotations

import enum
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer
from stantune.space import Space

NUMBERS = [
    lambda value: value,
    np.float64,
    np.array,
    torch.tensor,
    lambda value: torch.tensor(value, requires_grad=isinstance(value, float)),
]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_numpy_and_torch_are_pythons_own(number: Any) -> None:
    space = Space(
        {
            "a": Float(number(0.25), number(4.0), log=True),
            "b": Float(number(0.0), number(1.0), step=number(0.5)),
            "c": Integer(np.int64(2), torch.tensor(8), step=np.int8(3)),
            "d": Categorical(
                (np.int64(3), np.float32(0.5), np.bool_(True), np.str_("x"), (np.int16(1), torch.tensor(2)))
            ),
        }
    )
    assert space == Space(
        {
            "a": Float(0.25, 4.0, log=True),
            "b": Float(0.0, 1.0, step=0.5),
            "c": Integer(2, 8, step=3),
            "d": Categorical((3, 0.5, True, "x", (1, 2))),
        }
    )
    json.dumps(space.as_json())
    given = {"a": number(0.5), "b": number(0.5), "c": np.uint8(5), "d": (np.int64(1), 2)}
    assert_plain(space.check(given, complete=True), {"a": 0.5, "b": 0.5, "c": 5, "d": (1, 2)})
    for value in (np.int64(3), np.float64(0.5), np.bool_(True), torch.tensor(True), np.str_("x")):
        assert type(space.check({"d": value})["d"]) in (int, float, bool, str)


def assert_plain(found: Any, expected: Any) -> None:
    """Compare kinds too."""
    assert repr(found) == repr(expected)


class Pool(enum.StrEnum):
    """A text that is more than that."""

    MAX = "max"


class Size(enum.IntEnum):
    """A number that is more than that."""

    SMALL = 3


def test_other_numbers_and_texts_are_plain_too() -> None:
    space = Space({"a": Categorical((Pool.MAX, Size.SMALL)), "b": Float(0, 1), "c": Integer(0, 5)})
    assert_plain(space["a"], Categorical(("max", 3)))
    checked = space.check({"a": Pool.MAX, "b": Fraction(1, 4), "c": Size.SMALL})
    assert_plain(checked, {"a": "max", "b": 0.25, "c": 3})
    assert_plain(Float(Decimal("0.1"), 1), Float(0.1, 1))  # type: ignore[arg-type]
    assert Float(0, 1, log=np.bool_(False)).log is False


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("a", np.float32(7), "a is 7.0, outside its range"),
        ("a", np.bool_(True), "a is True, but it is a number"),
        ("a", np.array([0.5]), r"a is an array of shape \(1,\), but it is a number"),
        ("a", torch.ones(2, 2), r"a is an array of shape \(2, 2\), but it is a number"),
        ("a", "x" * 5000, "a is a str, but it is a number"),
        pytest.param("a", 10**5000, "a is inf, outside its range from 0 to 1; the nearest valid value is 1", id="huge"),
        ("a", -Fraction(10**400), "a is -inf, outside its range"),
        ("b", np.float64(2.0), "b is 2.0, but it is a whole number from 0 to 9; the nearest valid value is 2"),
        ("b", torch.tensor([1, 2]), r"b is an array of shape \(2,\), but it is a whole number from 0 to 9$"),
        ("c", np.float64(0.3), "c is 0.3, but it goes from 0 to 1 in steps of 0.25; the nearest valid value is 0.25"),
        ("d", 5, "d is 5, but it goes from 0 to 8 in steps of 4; the nearest valid value is 4"),
        pytest.param("b", -(10**5000), "b is -inf, outside .* the nearest valid value is 0", id="huge whole"),
        ("d", 6.5, "d is 6.5, but it is a whole number .* nearest valid value is 8"),
        ("e", np.array([3, 3]), r"e is 'an array of shape \(2,\)', but it is one of"),
        ("e", (3, 4), r"e is '\(3, 4\)', but it is one of \(3, 3\), x, \(\(1, 1\), None\); the nearest is \(3, 3\)"),
        ("e", (3.0, 3), r"e is '\(3.0, 3\)', but it is one of"),
        ("e", (3, 3, 3), "but it is one of"),
        ("e", math.nan, "e is 'nan', but it is one of"),
    ],
)
def test_bad_values_of_other_kinds(name: str, value: Any, words: str) -> None:
    space = Space(
        {
            "a": Float(0, 1),
            "b": Integer(0, 9),
            "c": Float(0, 1, step=0.25),
            "d": Integer(0, 8, step=4),
            "e": Categorical(((3, 3), "x", ((1, 1), None))),
        }
    )
    with pytest.raises(UsageError, match=words) as error:
        space.check({name: value})
    assert "\n" not in str(error.value)


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
CHOICES = st.lists(
    st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5),
    min_size=1,
    max_size=5,
    unique=True,
)


@given(CHOICES)
def test_choices_come_back_from_json(choices: list[Any]) -> None:
    parameter = Categorical(choices)  # type: ignore[arg-type]
    for choice in choices:
        assert_plain(parameter.check("x", json.loads(json.dumps(choice))), choice)
        texts = [str(other) for other in choices]
        if texts.count(str(choice)) == 1:
            assert_plain(parameter.parse("x", str(choice)), choice)


def test_tuples_parse_with_and_without_spaces() -> None:
    parameter = Categorical(((3, 3), (5, 5), "SAME", ((1, 1), None)))
    for text in ("(3, 3)", "(3,3)", " ( 3,3 )"):
        assert parameter.parse("kernel", text) == (3, 3)
    assert parameter.parse("kernel", "((1,1),none)") == ((1, 1), None)
    assert parameter.parse("kernel", "same") == "SAME"
    with pytest.raises(
        UsageError, match=r"kernel is '\(3, 5\)', but it is one of \(3, 3\), .*; the nearest is \([35], [35]\)"
    ):
        parameter.parse("kernel", "(3, 5)")
