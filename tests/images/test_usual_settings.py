"""How trials are trained where nobody says: a call and a command without options are one search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from corners import CORNERS

from stantune import Float, ProblemObjective, Space, Stan
from stantune.cli.training.composition import composed
from stantune.errors import UsageError
from stantune.images.problem.built_in import find
from stantune.images.stan_settings import noted
from stantune.tuning.compose import compose

# What is to be spared is in none of its networks, which is no matter where nothing is spared.
DEEPER = replace(CORNERS, name="deeper", stan_layers=("deep.*",))
OF_THE_COMMAND = (None, None, None, None, 0, 0, None)


def stan_of(what: Any, **options: Any) -> Stan | None:
    objective: Any = compose(what, max_resource=9, **options)[0]
    return objective.stan


@pytest.mark.parametrize("problem", [CORNERS, DEEPER, find("lenet"), find("cq")], ids=lambda problem: problem.name)
def test_a_call_is_what_the_command_is(problem: Any) -> None:
    _, sizes = composed(problem, False, 9, None, 3, OF_THE_COMMAND, None)
    assert noted(stan_of(problem)) == noted(sizes["stan"])
    _, said = composed(problem, False, 9, None, 3, ("stan", *OF_THE_COMMAND[1:]), None)
    _, compiled = composed(problem, False, 9, None, 3, OF_THE_COMMAND, None, compile=True)
    assert (said["stan"], compiled["stan"]) == (sizes["stan"], stan_of(problem, compile=True))


@pytest.mark.parametrize("name", ["cq", "alexbn:activation=sigmoid,order=caffe"])
def test_a_built_in_one_is_called_by_its_name(name: str) -> None:
    named, given = (compose(what, max_resource=9)[0] for what in (name, find(name)))
    assert (named.identity, named.space) == (given.identity, given.space)


@pytest.mark.parametrize("name", ["lenett", "my.py:problem", ""])
def test_a_text_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"no problem is called .*lenet, cq, .* or give a Problem of your own itself"):
        compose(name, max_resource=9)


def test_a_file_is_like_no_name_and_a_long_one_is_cut() -> None:
    for name in ("my.py:problem", "meprop.py", "x" * 5000):
        with pytest.raises(UsageError) as caught:
            compose(name, max_resource=9)
        assert "did you mean" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_others_problems_are_trained_with_every_entry() -> None:
    assert stan_of(CORNERS) == stan_of(DEEPER) == Stan(rate=1)
    assert stan_of(find("cq")) == Stan(rate=0.5, layers=("conv2",))


@pytest.mark.parametrize("options", [{"stan": None}, {"compile": True}], ids=["none", "compiled"])
def test_plain_pytorch(options: dict[str, Any]) -> None:
    assert stan_of(CORNERS, **options) is None


def test_rates_are_spared_by_as_ever() -> None:
    assert stan_of(CORNERS, rates=(0.5, 1)) == stan_of(CORNERS, stan=None, rates=(0.5, 1)) == Stan(rate=0.5, period=9)


@pytest.mark.parametrize("stan", [None, Stan(rate=0.25)], ids=str)
def test_an_objective_says_it_itself(stan: Stan | None) -> None:
    assert stan_of(ProblemObjective(CORNERS, stan)) == stan


def test_functions_are_not_accelerated() -> None:
    assert stan_of(lambda run: 1.0, space=Space({"x": Float(0, 1)}), minimize="x", name="one") is None
