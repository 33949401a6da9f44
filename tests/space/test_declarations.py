"""What is no parameter or no space is refused in a sentence; and a space's JSON."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer
from stantune.space import Space


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
    space = Space({"lr": Float(5e-5, 5, log=True), "pool": Categorical(("max", "average", None, True, 2))})
    described = json.loads(json.dumps(space.as_json()))
    assert described["lr"] == {"kind": "float", "low": 5e-5, "high": 5, "log": True}
    assert described["pool"] == {"kind": "categorical", "choices": ["max", "average", None, True, 2]}


def test_as_json_of_older_spaces_is_what_it_was() -> None:
    space = Space({"a": Float(0, 1), "b": Integer(1, 2, log=True), "c": Categorical(("x", None))})
    assert json.dumps(space.as_json()) == (
        '{"a": {"kind": "float", "low": 0, "high": 1, "log": false}, '
        '"b": {"kind": "integer", "low": 1, "high": 2, "log": true}, '
        '"c": {"kind": "categorical", "choices": ["x", null]}}'
    )
    stepped = Space({"a": Float(0, 1, step=0.5), "b": Integer(0, 4, step=2), "c": Integer(0, 4, step=1)}).as_json()
    assert (stepped["a"]["step"], stepped["b"]["step"], "step" in stepped["c"]) == (0.5, 2, False)
