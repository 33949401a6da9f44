"""A problem whose network has other options than it has by default, by name: alexbn:activation=sigmoid."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from stantune.errors import UsageError
from stantune.images.problem.problem import Problem
from stantune.process.alone import alone
from stantune.texts import brief

_TRUTHS = {"true": True, "false": False}


def options_of(problem: Problem) -> dict[str, bool | int | float | str]:
    """Return the options of a problem, with their values: the network's keywords that the space does not have."""
    keywords = inspect.signature(problem.network).parameters
    return {name: each.default for name, each in keywords.items() if name not in problem.space}


def with_options(problem: Problem, given: str) -> Problem:
    """Return a built-in problem with other options; of equal ones always the same object.

    Its name has those that are not the defaults, in the network's order, so that all that goes by names (identities,
    folders, other processes) tells them apart.

    Args:
        problem: with its defaults.
        given: "NAME=VALUE,NAME=VALUE".

    Raises:
        UsageError: no such option, one that is given twice, or a value that the network does not take.
    """
    defaults = options_of(problem)
    values: dict[str, Any] = {}
    for assignment in given.split(","):
        name, _, text = assignment.partition("=")
        if name in problem.space:
            raise UsageError(f"{brief(name)} is a parameter of {problem.name} and no option; leave it to the setting")
        if name not in defaults:
            known = (
                f"take {', '.join(defaults)}, each as NAME=VALUE" if defaults else f"it has none: {problem.name} alone"
            )
            raise UsageError(f"{problem.name} has no option {brief(name)!r}; {known}")
        if name in values:
            raise UsageError(f"{problem.name} is given {name} twice; give it once")
        values[name] = _parsed(problem.name, name, text, type(defaults[name]))
    others = {name: values[name] for name, default in defaults.items() if values.get(name, default) != default}
    if not others:
        return problem
    text = ",".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in others.items()
    )
    name = f"{problem.name}:{text}"
    if name not in _MADE:
        made = replace(problem, name=name, network=partial(problem.network, **others))
        with alone(), torch.random.fork_rng([]):
            made.build({})
        _MADE[name] = made
    return _MADE[name]


# Of each name one object: problems are compared, and a partial equals itself alone.
_MADE: dict[str, Problem] = {}


def _parsed(problem: str, name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in _TRUTHS:
            raise UsageError(f"{problem}'s {name}={brief(text)} is neither true nor false; give one of them")
        return _TRUTHS[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{problem}'s {name}={brief(text)} is no {_KINDS[kind]}; give one") from None


_KINDS: Mapping[type, str] = {int: "whole number", float: "number"}
