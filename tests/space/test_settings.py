"""Spaces: what is refused, and that the refusal names the parameter, the value and the nearest valid one."""

from __future__ import annotations

import enum
import json
import math
import warnings
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
from stantune.search.propose.sampling import to_distribution
from stantune.space import Space, condition_text

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
        (lambda: Float(0, 10**400), "no finite number"),
        (lambda: Float("1", 2), "the low of a parameter of kind Float is '1', which is no number"),  # type: ignore[arg-type]
        (lambda: Float(0, True), "the high of .* is True, which is no number"),
        (lambda: Float(0, np.ones(1)), r"is an array of shape \(1,\), which is no number"),
        (lambda: Float(0, np.ones((2, 3))), r"is an array of shape \(2, 3\), which is no number"),
        (lambda: Float(-1.7e308, 1.7e308), "is too wide: high - low is no finite number"),
        (lambda: Float(1e-3, 1, log=True, step=0.1), "has steps on a logarithmic scale"),
        (lambda: Float(0, 1, step=0), "goes in steps of 0: give a step above zero"),
        (lambda: Float(0, 1, step=-0.1), "goes in steps of -0.1"),
        (lambda: Float(0, 1, step=math.inf), "goes in steps of inf"),
        (lambda: Float(0, 1, step=math.nan), "goes in steps of nan"),
        (lambda: Float(0, 1, step=0.3), "does not reach high in steps of 0.3: the nearest high that it does is 0.9$"),
        (lambda: Float(0, 1, step=0.4), "nearest high that it does is 0.8$"),
        (lambda: Float(0, 1.1, step=0.4), "nearest high that it does is 1.2$"),
        (lambda: Float(0, 1, step=3), "nearest high that it does is 0.0$"),
        (lambda: Float(0, 1, step=1e-12), "too fine a step to tell its values apart"),
        (lambda: Float(0, 991 * 2**-20, step=2**-20), "only with more digits than a number has: give a rounder step"),
        (lambda: Float(1e12, 1e12 + 1, step=0.1), "too fine a step to tell its values apart"),
        (lambda: Integer(0, 10, step=3), "does not reach high in steps of 3: the nearest high that it does is 9$"),
        (lambda: Integer(0, 11, step=3), "nearest high that it does is 12$"),
        (lambda: Integer(0, 10, step=0), "goes in steps of 0: give a whole number, 1 or more"),
        (lambda: Integer(0, 10, step=2.0), "goes in steps of 2.0: give a whole number"),  # type: ignore[arg-type]
        (lambda: Integer(1, 9, log=True, step=2), "has steps on a logarithmic scale"),
        (lambda: Integer(0, 10**400), "no finite number"),
        (
            lambda: Integer(1, 10**5000),
            "high of .* Integer is so large that it is no finite number",
        ),
        (lambda: Integer(1, 2, step=10**5000), "the step of a parameter of kind Integer is so large"),
        (lambda: Float(-(10**5000), 1), "the low of a parameter of kind Float is so large"),
        (lambda: Float(0, 1, 0.1), "log of .* Float is 0.1, .* neither True nor False; a step is given by name"),  # type: ignore[arg-type]
        (lambda: Integer(0, 9, 3), "the log of .* Integer is 3, which is neither"),  # type: ignore[arg-type]
        (lambda: Float(1, 2, log="no"), "the log of .* is 'no', which is neither"),  # type: ignore[arg-type]
        (lambda: Float(Decimal("NaN"), 1), "has an end that is no finite number"),  # type: ignore[arg-type]
        (lambda: Categorical((1.0, math.inf)), "^inf cannot be a choice: give a finite number, None, or a text"),
        (lambda: Categorical(((1, -math.inf),)), "^-inf cannot be a choice"),
        (lambda: Categorical((1, 10**5000)), "^inf cannot be a choice"),
        (lambda: Categorical(("a", "b\udcff")), "'b.udcff' cannot be a choice: it is no text that can be written"),
        (lambda: Categorical([[3, 3], [5, 5]]), r"\[3, 3\] cannot be a choice: give a tuple, \(3, 3\)"),  # type: ignore[arg-type]
        (lambda: Categorical({"a", "b"}), "the choices are a set, whose order .*: give a list or a tuple"),  # type: ignore[arg-type]
        (lambda: Categorical(frozenset("ab")), "the choices are a frozenset"),  # type: ignore[arg-type]
        (lambda: Categorical({"a": 1}), "the choices are a dict"),  # type: ignore[arg-type]
        (lambda: Categorical("abc"), "the choices are 'abc': give a list or a tuple"),  # type: ignore[arg-type]
        (lambda: Categorical(3), "the choices are 3: give a list or a tuple"),  # type: ignore[arg-type]
        (lambda: Categorical((1.0, math.nan)), "nan cannot be a choice"),
        (lambda: Categorical(((1, math.nan),)), "nan cannot be a choice"),
        (lambda: Categorical((object,)), "cannot be a choice: give texts"),  # type: ignore[arg-type]
        (lambda: Categorical((({1},),)), "cannot be a choice: give texts"),
        (lambda: Categorical((np.zeros(3),)), r"an array of shape \(3,\) cannot be a choice"),  # type: ignore[arg-type]
        (lambda: Categorical(((1, 2), (1.0, 2))), "equal ones"),
        (lambda: Space({"a=b": Float(0, 1)}), "'a=b' cannot name a parameter"),
        (lambda: Space({"a": 1}), "give a Float"),  # type: ignore[dict-item]
    ],
)
def test_bad_spaces(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None,), "^the parameters of a space are None: give a mapping, such as {'lr': Float"),
        (([("x", Float(0, 1))],), "^the parameters of a space are .*: give a mapping"),
        (({1: Float(0, 1)},), "^1 cannot name a parameter: use letters"),
        (({"x": Float},), "^x is .*: give a Float, an Integer or a Categorical$"),
        (({"x": Integer(0, 1)}, ["x"]), "^the conditions of a space, `when`, are .*: give a mapping"),
        (({"x": Integer(0, 1)}, {"x": "k"}), "^the condition of x is 'k': give a mapping, such as"),
        (({"x": Integer(0, 1)}, {1: {"x": 1}}), "^a condition is given for 1, which is no parameter"),
        (({"x": Integer(0, 1)}, {"x": {1: 1}}), "^x depends on 1, which is no parameter"),
    ],
)
def test_a_space_of_the_wrong_kinds_is_one_sentence(arguments: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        Space(*arguments)
    assert "\n" not in str(error.value)


def test_the_decay_of_a_layer_inside_of_others_has_its_path_as_a_name() -> None:
    names = ["features.0_l2", "0_l2", "block.conv1_l2"]
    assert list(Space({name: Float(0, 1) for name in names})) == names
    for name in ("features.0", "0", "a b_l2", "a..b_l2", ".a_l2", "a-b_l2"):
        with pytest.raises(UsageError, match="cannot name a parameter"):
            Space({name: Float(0, 1)})


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


def test_as_json_of_older_spaces_is_what_it_was() -> None:
    space = Space({"a": Float(0, 1), "b": Integer(1, 2, log=True), "c": Categorical(("x", None))})
    assert json.dumps(space.as_json()) == (
        '{"a": {"kind": "float", "low": 0, "high": 1, "log": false}, '
        '"b": {"kind": "integer", "low": 1, "high": 2, "log": true}, '
        '"c": {"kind": "categorical", "choices": ["x", null]}}'
    )
    stepped = Space({"a": Float(0, 1, step=0.5), "b": Integer(0, 4, step=2), "c": Integer(0, 4, step=1)}).as_json()
    assert (stepped["a"]["step"], stepped["b"]["step"], "step" in stepped["c"]) == (0.5, 2, False)


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


def test_tuples_in_conditions() -> None:
    kernel = Categorical(((3, 3), (5, 5), 3))
    parameters = {"kernel": kernel, "padding": Integer(0, 2)}
    one = Space(parameters, when={"padding": {"kernel": (5, 5)}})
    assert one.when == {"padding": {"kernel": ((5, 5),)}}
    assert one == Space(parameters, when={"padding": {"kernel": [[5, 5]]}})
    both = Space(parameters, when={"padding": {"kernel": ((3, 3), (5, 5))}})
    assert both.active({"kernel": [3, 3]}) == ["kernel", "padding"]
    assert both.active({"kernel": 3}) == ["kernel"]
    assert condition_text(both.when["padding"]) == "kernel is (3, 3) or (5, 5)"
    assert json.loads(json.dumps(both.as_json()))["padding"]["when"] == {"kernel": [[3, 3], [5, 5]]}
    # A set has no order, and what a search is must not depend on the process.
    layers = Space({"n": Integer(1, 20), "d": Float(0, 1)}, when={"d": {"n": {16, 2, 4}}})
    assert layers.when["d"] == {"n": (2, 4, 16)}
    assert Space({"n": Integer(1, 20), "d": Float(0, 1)}, when={"d": {"n": np.int64(3)}}).when["d"] == {"n": (3,)}


def test_what_is_left_without_fixed_parameters() -> None:
    left = CONDITIONAL.without({"kind": "deep"})
    assert left == Space(
        {name: CONDITIONAL[name] for name in ("dropout", "layers", "width")}, {"dropout": {"layers": (2, 3, 4)}}
    )
    assert list(CONDITIONAL.without({"kind": "plain"})) == ["width"]
    assert list(CONDITIONAL.without({"kind": None})) == ["layers", "width"]
    # What depends on a fixed parent exists where the parent does.
    left = CONDITIONAL.without({"layers": 3})
    assert left.when == {"dropout": {"kind": ("deep",)}}
    assert list(CONDITIONAL.without({"layers": 1})) == ["kind", "width"]
    assert CONDITIONAL.without({}) == CONDITIONAL
    with pytest.raises(
        UsageError, match=r"layers is fixed, but exists only where kind is deep or None, which .* leave layers out"
    ):
        CONDITIONAL.without({"kind": "plain", "layers": 2})
    with pytest.raises(UsageError, match="layers is 9, outside its range from 1 to 4; the nearest valid value is 4"):
        CONDITIONAL.without({"layers": 9})
    with pytest.raises(UsageError, match=r"no parameter 'kin'.*; the nearest is kind"):
        CONDITIONAL.without({"kin": "deep"})


@given(conditional_spaces(), st.data())
def test_what_is_left_by_the_definition(space: Space, data: st.DataObject) -> None:
    def value(name: str) -> Any:
        return data.draw(st.sampled_from((1, 2, 3) if isinstance(space[name], Integer) else ("x", None, "y")))

    fixed = {name: value(name) for name in space if data.draw(st.booleans())}
    try:
        left = space.without(fixed)
    except UsageError:
        return
    values = {name: value(name) for name in space} | fixed
    # What exists of the whole setting is what exists of the rest, and the fixed parameters that exist with it.
    assert [name for name in space.active(values) if name not in fixed] == left.active(values)
