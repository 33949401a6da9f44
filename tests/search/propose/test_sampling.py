"""Settings that depend on the seed and the trial number alone; distributions there and back."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from optuna.distributions import distribution_to_json, json_to_distribution

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer, Parameter
from stantune.search.propose.sampling import (
    Model,
    from_distribution,
    from_optuna,
    optuna_quiet,
    sample,
    to_distribution,
    to_optuna,
)
from stantune.space import Space

SPACE = Space(
    {
        "lr": Float(5e-5, 5, log=True),
        "dropout": Float(0, 0.999),
        "hidden": Integer(100, 8192),
        "width": Integer(1, 64, log=True),
        "pool": Categorical(("max", "average", None)),
        "fixed": Float(1, 1),
    }
)


@given(st.integers(), st.integers(0, 10**6))
def test_a_setting_is_in_the_space_and_plain(seed: int, number: int) -> None:
    setting = sample(SPACE, seed, number)
    assert list(setting) == list(SPACE)
    assert SPACE.check(setting, complete=True) == setting
    assert [type(value) for value in setting.values()][:4] == [float, float, int, int]


def test_a_setting_depends_on_seed_and_number_alone() -> None:
    settings = [sample(SPACE, 7, number) for number in range(20)]
    assert [sample(SPACE, 7, number) for number in reversed(range(20))] == settings[::-1]
    assert len({setting["lr"] for setting in settings}) == 20
    assert sample(SPACE, 8, 0) != settings[0]


def test_another_process_draws_the_same() -> None:
    code = (
        "from stantune.search.propose.sampling import sample; from stantune import Float, Integer, Space;"
        "print(sample(Space({'lr': Float(5e-5, 5, log=True), 'n': Integer(0, 9)}), 3, 11))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = sample(Space({"lr": Float(5e-5, 5, log=True), "n": Integer(0, 9)}), 3, 11)
    assert there.strip() == str(here)


def test_scales() -> None:
    settings = [sample(SPACE, 0, number) for number in range(2000)]
    # Half of a logarithmic range lies below its geometric mean, half of a linear one below the middle.
    below = sum(setting["lr"] < math.sqrt(5e-5 * 5) for setting in settings)
    assert 900 < below < 1100
    assert 900 < sum(setting["dropout"] < 0.4995 for setting in settings) < 1100
    assert 900 < sum(setting["hidden"] < 4146 for setting in settings) < 1100
    assert {setting["pool"] for setting in settings} == {"max", "average", None}


OTHERS = Space(
    {
        "stepped": Float(0, 1, step=0.1),
        "stepped_wide": Float(-3, 5, step=4),
        "whole": Integer(0, 96, step=32),
        "kernel": Categorical(((3, 3), (5, 5), "same", ((1, 1), None, True))),
        "text": Categorical(("tuple:[3, 3]", "tuple:", 'tuple:"x"', "(3, 3)", (3, 3))),
        "one": Float(0.1, 0.1, log=True),
        "one_linear": Float(-0.3, -0.3),
        "one_whole": Integer(7, 7, log=True),
        "one_step": Float(0.5, 0.5, step=0.1),
    }
)


@pytest.mark.parametrize("parameter", [*SPACE.values(), *OTHERS.values()], ids=[*SPACE, *OTHERS])
def test_distributions_there_and_back(parameter: Parameter) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distribution = to_distribution(parameter)
        assert from_distribution(distribution) == parameter
        assert from_distribution(json_to_distribution(distribution_to_json(distribution))) == parameter


@pytest.mark.parametrize(
    "distribution",
    [
        optuna.distributions.FloatDistribution(-1.7e308, 1.7e308),
        optuna.distributions.FloatDistribution(0, 1, step=1e-12),
        optuna.distributions.IntDistribution(0, 2**60),
        optuna.distributions.CategoricalDistribution((math.nan,)),
        optuna.distributions.CategoricalDistribution((1, True)),
    ],
)
def test_distributions_that_are_none_of_ours(distribution: optuna.distributions.BaseDistribution) -> None:
    assert from_distribution(distribution) is None


def test_plain_choices_are_kept_as_they_always_were() -> None:
    choices = ("max", "(3, 3)", None, True, 2, 0.5)
    assert to_distribution(Categorical(choices)) == optuna.distributions.CategoricalDistribution(choices)
    assert to_optuna({"a": "max", "b": None, "c": 0.5}) == {"a": "max", "b": None, "c": 0.5}


CHOICES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9) | st.just("tuple:[1]"),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(CHOICES)
def test_values_there_and_back(choice: Any) -> None:
    there = to_optuna({"a": choice})
    assert isinstance(there["a"], str | int | float | None), "Optuna's own choices are plain"
    assert repr(from_optuna(there)) == repr({"a": choice})
    assert from_optuna(json.loads(json.dumps({"a": there["a"]}))) == {"a": choice}


def test_a_list_is_what_json_makes_of_a_tuple() -> None:
    assert from_optuna({"kernel": [[1, 1], None], "x": "tuple:no JSON"}) == {
        "kernel": ((1, 1), None),
        "x": "tuple:no JSON",
    }


@given(st.integers(), st.integers(0, 10**6))
def test_steps_tuples_and_single_values_are_drawn_and_plain(seed: int, number: int) -> None:
    setting = sample(OTHERS, seed, number)
    assert repr(OTHERS.check(setting, complete=True)) == repr(setting)
    assert setting["stepped"] in [k / 10 for k in range(11)]
    assert setting["whole"] in (0, 32, 64, 96)
    assert setting["kernel"] in OTHERS["kernel"].choices  # type: ignore[union-attr]
    assert [setting[name] for name in OTHERS if name.startswith("one")] == [0.1, -0.3, 7, 0.5]


def test_a_model_draws_them_too_and_optuna_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The right kernel and the step at 0.7 are best.
        observed = [
            (params, abs(params["stepped"] - 0.7) + (params["kernel"] != (5, 5)))
            for params in (sample(OTHERS, 3, number) for number in range(100))
        ]
        model = Model(OTHERS, observed)
        drawn = [model.sample(0, number) for number in range(60)]
    assert all(repr(OTHERS.check(params, complete=True)) == repr(params) for params in drawn)
    assert sum(params["kernel"] == (5, 5) for params in drawn) > 40
    assert sum(abs(params["stepped"] - 0.7) < 0.15 for params in drawn) > 30


@st.composite
def narrow_or_wide(draw: st.DrawFn) -> Parameter:
    """Return a range of one value, of few doubles, or of nearly all that there are."""
    low = draw(st.floats(-1e300, 1e300, allow_subnormal=True))
    high = draw(st.just(low) | st.integers(1, 3).map(lambda steps: _above(low, steps)) | st.floats(low, 1e300))
    return Float(low, high, log=low > 0 and draw(st.booleans()))


def _above(low: float, steps: int) -> float:
    for _ in range(steps):
        low = math.nextafter(low, math.inf)
    return low


@given(narrow_or_wide(), st.integers(0, 1000))
def test_values_at_the_ends_never_fall_outside(parameter: Parameter, seed: int) -> None:
    space = Space({"x": parameter, "other": Float(0, 1)})
    observed = [(sample(space, seed, number), float(number % 5)) for number in range(12)]
    model = Model(space, observed)
    for params in [*(params for params, _ in observed), *(model.sample(seed, number) for number in range(3))]:
        assert isinstance(parameter, Float)
        assert type(params["x"]) is float
        assert parameter.low <= params["x"] <= parameter.high


FINITE = st.floats(allow_nan=False, allow_infinity=False)
CHOICE = st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5)


@st.composite
def anything(draw: st.DrawFn) -> Parameter:
    """Return a parameter of any kind, or the nearest one that is not refused."""
    log = draw(st.booleans())
    try:
        match draw(st.sampled_from(("float", "stepped", "integer", "categorical"))):
            case "float":
                return Float(*sorted((draw(FINITE), draw(FINITE))), log=log)
            case "stepped":
                low, step = draw(st.integers(-50, 50)) / 10, draw(st.sampled_from((0.1, 0.25, 1.0, 3.0)))
                return Float(low, low + draw(st.integers(0, 40)) * step, step=step)
            case "integer":
                return Integer(
                    *sorted((draw(st.integers(-(2**53), 2**53)), draw(st.integers(-(2**53), 2**53)))), log=log
                )
            case _:
                choices = st.lists(CHOICE | st.tuples(CHOICE, CHOICE), min_size=1, max_size=4)
                return Categorical(tuple(draw(choices)))
    except UsageError:
        reject()


@given(anything(), st.integers(0, 1000))
def test_what_is_drawn_lies_in_its_range_and_comes_back_from_json_as_it_was(parameter: Parameter, seed: int) -> None:
    space = Space({"x": parameter})
    for number in range(3):
        setting = sample(space, seed, number)
        value = setting["x"]
        if isinstance(parameter, Categorical):
            assert any(value is choice for choice in parameter.choices)
        else:
            assert type(value) is (float if isinstance(parameter, Float) else int)
            assert parameter.low <= value <= parameter.high
        for kept in (setting, from_optuna(json.loads(json.dumps(to_optuna(setting), allow_nan=False)))):
            # Equal, and of the same kind and sign: 1 is neither 1.0 nor True, 0.0 is not -0.0.
            assert repr(space.check(kept, complete=True)) == repr(setting)
        assert repr(space.check(json.loads(json.dumps(setting, allow_nan=False)))) == repr(setting)


def test_optuna_says_nothing_and_keeps_its_verbosity() -> None:
    # A fresh process: the study that is only made once must be silent when it is made.
    code = (
        "import logging, optuna; from stantune import Float, Space;"
        "from stantune.search.propose.sampling import sample;"
        "sample(Space({'lr': Float(0, 1)}), 0, 0); print(optuna.logging.get_verbosity())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() == str(logging.INFO)


def test_only_what_exists_is_drawn_nested_conditions_too() -> None:
    space = Space(
        {"rate": Float(0, 1), "kind": Categorical(("a", "b")), "layers": Integer(1, 3)},
        when={"rate": {"layers": (2, 3)}, "layers": {"kind": "b"}},
    )
    settings = [sample(space, 0, number) for number in range(300)]
    assert all(space.check(setting, complete=True) == setting for setting in settings)
    kinds = [tuple(setting) for setting in settings]
    assert set(kinds) == {("kind",), ("kind", "layers"), ("rate", "kind", "layers")}
    assert 120 < kinds.count(("kind",)) < 180
    assert 70 < kinds.count(("rate", "kind", "layers")) < 130


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_searches_of_several_threads_leave_optuna_as_loud_as_it_was(first_ends_first: bool) -> None:
    """Each of them begins before the other one has ended."""
    before = optuna.logging.get_verbosity()
    begun, may_end = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def quiet(number: int, level: int) -> None:
        with optuna_quiet(level):
            begun[number].set()
            assert may_end[number].wait(60)

    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        with ThreadPoolExecutor(2) as threads:
            levels = [optuna.logging.WARNING, optuna.logging.ERROR]
            running = []
            for number, level in enumerate(levels):
                running.append(threads.submit(quiet, number, level))
                assert begun[number].wait(60)
            assert optuna.logging.get_verbosity() == optuna.logging.ERROR
            first, second = (0, 1) if first_ends_first else (1, 0)
            may_end[first].set()
            running[first].result(60)
            assert optuna.logging.get_verbosity() == levels[second], "the other one is still at it"
            may_end[second].set()
            running[second].result(60)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
