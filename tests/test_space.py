"""Spaces: what is refused, and that the refusal names the parameter, the value and the nearest valid one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.space import Categorical, Float, Integer, Space

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
        assert parameter.check("x", value) == value
    except UsageError as error:
        nearest = float(str(error).rsplit(" ", 1)[1])
        assert parameter.check("x", nearest) == nearest
        assert not -3.5 <= value <= 12.25


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_parse_as_they_print(value: int) -> None:
    assert Integer(-(2**53), 2**53).parse("n", str(value)) == value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Float(2, 1), "is empty: low is above high"),
        (lambda: Float(0, 1, log=True), "no logarithm"),
        (lambda: Float(0, math.inf), "no finite number"),
        (lambda: Float(math.nan, 1), "no finite number"),
        (lambda: Integer(2, 1), "is empty"),
        (lambda: Integer(0, 1, log=True), "no logarithm"),
        (lambda: Integer(0, 2**60), "no whole number of at most"),
        (lambda: Integer(0, 1.5), "no whole number"),  # type: ignore[arg-type]
        (lambda: Categorical(()), "at least one choice"),
        (lambda: Categorical((1, True)), "equal ones"),
        (lambda: Categorical(((1, 2),)), "cannot be a choice"),  # type: ignore[arg-type]
        (lambda: Space({"a=b": Float(0, 1)}), "'a=b' cannot name a parameter"),
        (lambda: Space({"a": 1}), "give a Float"),  # type: ignore[dict-item]
    ],
)
def test_bad_spaces(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


def test_as_json_is_plain() -> None:
    described = json.loads(json.dumps(SPACE.as_json()))
    assert described["lr"] == {"kind": "float", "low": 5e-5, "high": 5, "log": True}
    assert described["pool"] == {"kind": "categorical", "choices": ["max", "average", None, True, 2]}


CONDITIONAL = Space(
    {
        "dropout": Float(0, 1),
        "layers": Integer(1, 4),
        "kind": Categorical(("plain", "deep", None)),
        "width": Integer(1, 9),
    },
    # A parameter may be declared before what it depends on.
    when={"dropout": {"layers": range(2, 5), "kind": "deep"}, "layers": {"kind": ("deep", None)}},
)


@pytest.mark.parametrize(
    ("setting", "active"),
    [
        ({"kind": "plain"}, ["kind", "width"]),
        ({"kind": "plain", "layers": 3}, ["kind", "width"]),
        ({"kind": None, "layers": 3}, ["layers", "kind", "width"]),
        ({"kind": "deep", "layers": 1}, ["layers", "kind", "width"]),
        ({"kind": "deep", "layers": 2}, ["dropout", "layers", "kind", "width"]),
        ({"kind": "deep"}, ["layers", "kind", "width"]),
        ({"layers": 2}, ["kind", "width"]),
        ({}, ["kind", "width"]),
    ],
)
def test_what_exists(setting: dict[str, Any], active: list[str]) -> None:
    assert CONDITIONAL.active(setting) == active


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            {"kind": "plain", "layers": 2},
            "layers exists only where kind is deep or None: here kind is plain, so leave layers out",
        ),
        ({"layers": 2}, "layers exists only where kind is deep or None: give kind as well, or leave layers out"),
        (
            {"kind": "deep", "layers": 1, "dropout": 0.5},
            "dropout exists only where layers is 2 or 3 or 4 and kind is deep: here layers is 1, so leave dropout out",
        ),
        # It is the parent that does not exist.
        (
            {"kind": "plain", "layers": 2, "dropout": 0.5},
            "layers exists only where kind is deep or None: here kind is plain",
        ),
        ({"dropout": 0.5}, "dropout exists only where .*: give layers as well, or leave dropout out"),
    ],
)
def test_a_parameter_that_does_not_exist_is_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"^{words}"):
        CONDITIONAL.check(setting)


def test_completeness_under_conditions() -> None:
    assert CONDITIONAL.check({"kind": "plain", "width": 1}, complete=True) == {"kind": "plain", "width": 1}
    whole = {"width": 1, "kind": "deep", "layers": 2, "dropout": 0.5}
    assert list(CONDITIONAL.check(whole, complete=True)) == ["dropout", "layers", "kind", "width"]
    with pytest.raises(UsageError, match="the setting lacks layers: give"):
        CONDITIONAL.check({"kind": None, "width": 1}, complete=True)
    with pytest.raises(UsageError, match="the setting lacks dropout: give"):
        CONDITIONAL.check({"kind": "deep", "layers": 4, "width": 1}, complete=True)


PARAMETERS = {"a": Categorical(("x", "y", 1)), "b": Integer(1, 3), "c": Integer(1, 3), "lr": Float(0, 1)}


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"d": {"a": "x"}}, "a condition is given for 'd', which is no parameter: the space has a, b, c, lr"),
        ({"b": {"aa": "x"}}, "b depends on 'aa', which is no parameter: the space has .*; the nearest is a$"),
        ({"b": {"lr": 0.5}}, "b depends on lr, a Float"),
        ({"b": {"a": ()}}, "b depends on a, but on none of its values"),
        ({"b": {"a": "z"}}, "b can never exist under one of its conditions: a is 'z', but it is one of x, y, 1"),
        ({"b": {"a": True}}, "a is 'True', but it is one of"),
        (
            {"b": {"c": (1, 4)}},
            "b can never exist .*: c is 4, outside its range from 1 to 3; the nearest valid value is 3",
        ),
        ({"b": {"b": 1}}, "b depends on b: let each depend on parameters that do not depend on it"),
        ({"a": {"b": 1}, "b": {"c": 1}, "c": {"b": 2}}, "b depends on c depends on b: let each"),
    ],
)
def test_conditions_that_make_no_sense(when: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        Space(PARAMETERS, when)
    assert "\n" not in str(error.value)


@st.composite
def conditional_spaces(draw: st.DrawFn) -> Space:
    """Return a space whose parameters depend on others without a circle, in any order of declaration."""
    names = [f"p{place}" for place in range(draw(st.integers(1, 6)))]
    parameters = {name: draw(st.sampled_from([Integer(1, 3), Categorical(("x", None, "y"))])) for name in names}
    when = {}
    for place, name in enumerate(names):
        parents = draw(st.lists(st.sampled_from(names[:place]), max_size=2, unique=True)) if place else []
        conditions = {
            parent: draw(
                st.lists(
                    st.sampled_from((1, 2, 3) if isinstance(parameters[parent], Integer) else ("x", None, "y")),
                    min_size=1,
                    max_size=2,
                    unique=True,
                )
            )
            for parent in parents
        }
        if conditions:
            when[name] = conditions
    order = draw(st.permutations(names))
    return Space({name: parameters[name] for name in order}, when)


@given(conditional_spaces(), st.data())
def test_what_exists_by_the_definition(space: Space, data: st.DataObject) -> None:
    values = {
        name: data.draw(st.sampled_from((1, 2, 3) if isinstance(space[name], Integer) else ("x", None, "y")))
        for name in space
    }

    def exists(name: str) -> bool:
        return all(exists(parent) and values[parent] in met for parent, met in space.when.get(name, {}).items())

    active = space.active(values)
    assert active == [name for name in space if exists(name)]
    setting = {name: values[name] for name in active}
    assert space.check(setting, complete=True) == setting
    for name in space:
        if name not in active:
            with pytest.raises(UsageError, match="exists only where"):
                space.check({**setting, name: values[name]})
        else:
            with pytest.raises(UsageError, match=r"lacks|exists only where"):
                space.check({key: value for key, value in setting.items() if key != name}, complete=True)


def test_conditions_belong_to_a_space_and_its_json() -> None:
    assert Space(PARAMETERS, {"b": {"a": "x"}}) == Space(PARAMETERS, {"b": {"a": ["x"]}})
    assert Space(PARAMETERS, {"b": {"a": "x"}}) != Space(PARAMETERS)
    described = json.loads(json.dumps(CONDITIONAL.as_json()))
    assert described["dropout"]["when"] == {"layers": [2, 3, 4], "kind": ["deep"]}
    assert "when" not in described["kind"]
    assert repr(Space(PARAMETERS, {"b": {"a": "x"}})).endswith("when={'b': {'a': ('x',)}})")
