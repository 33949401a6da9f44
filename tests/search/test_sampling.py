"""Settings that depend on the seed and the trial number alone; distributions there and back."""

from __future__ import annotations

import logging
import math
import subprocess
import sys

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.search.propose.sampling import from_distribution, sample, to_distribution
from stantune.space import Categorical, Float, Integer, Parameter, Space

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
        "from stantune.search.propose.sampling import sample; from stantune.space import *;"
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


@pytest.mark.parametrize("parameter", list(SPACE.values()), ids=list(SPACE))
def test_distributions_there_and_back(parameter: Parameter) -> None:
    assert from_distribution(to_distribution(parameter)) == parameter


@pytest.mark.parametrize(
    "distribution",
    [
        optuna.distributions.FloatDistribution(0, 1, step=0.5),
        optuna.distributions.IntDistribution(0, 8, step=2),
    ],
)
def test_distributions_that_are_none_of_ours(distribution: optuna.distributions.BaseDistribution) -> None:
    assert from_distribution(distribution) is None


def test_optuna_says_nothing_and_keeps_its_verbosity() -> None:
    # A fresh process: the study that is only made once must be silent when it is made.
    code = (
        "import logging, optuna; from stantune.search.propose.sampling import sample; from stantune.space import *;"
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
