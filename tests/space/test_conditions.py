"""Parameters that exist under conditions: where they do, what is refused, and what is left of a space without some."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer
from stantune.space import Space, condition_text

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


@given(conditional_spaces(), st.data())
def test_another_order_is_the_same_space_otherwise(space: Space, data: st.DataObject) -> None:
    names = data.draw(st.permutations(list(space)))
    ordered = space.in_order(names)
    assert (ordered, list(ordered), list(ordered.as_json())) == (space, names, names)
    assert ordered.as_json() == space.as_json()
    values = {name: 2 if isinstance(space[name], Integer) else "x" for name in space}
    there = space.active(values)
    assert ordered.active(values) == [name for name in names if name in there]


def test_choices_in_conditions_are_the_same_in_another_order() -> None:
    kernel = Categorical(((3, 5), 3, 5))
    space = Space({"kernel": kernel, "padding": Integer(0, 2)}, when={"padding": {"kernel": {3, 5}}})
    assert space.in_order(["padding", "kernel"]).active({"kernel": 3}) == ["padding", "kernel"]


def test_conditions_belong_to_a_space_and_its_json() -> None:
    assert Space(PARAMETERS, {"b": {"a": "x"}}) == Space(PARAMETERS, {"b": {"a": ["x"]}})
    assert Space(PARAMETERS, {"b": {"a": "x"}}) != Space(PARAMETERS)
    described = json.loads(json.dumps(CONDITIONAL.as_json()))
    assert described["dropout"]["when"] == {"layers": [2, 3, 4], "kind": ["deep"]}
    assert "when" not in described["kind"]
    assert repr(Space(PARAMETERS, {"b": {"a": "x"}})).endswith("when={'b': {'a': ('x',)}})")


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
