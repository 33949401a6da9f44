"""The built-in problems, and how any is found: by name, or in a user's own file."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from stantune.errors import UsageError
from stantune.images.data import Normalise
from stantune.images.nets import cifar, lenet, meprop, mlp
from stantune.images.problem.facts import FACTS, names_built_in
from stantune.images.problem.options import options_of, with_options
from stantune.images.problem.problem import Problem, Splits
from stantune.texts import brief
from stantune.user_code.files import load_file

__all__ = ["BUILT_IN", "Problem", "Splits", "built_in", "called", "find", "is_built_in", "options_of"]


# The second convolution of these networks does more than half of the arithmetic, and its entries can best be spared:
# the others cost CQ more error for less time (docs/stan.md).
_MOST_ARITHMETIC = ("conv2",)
_LESS_MEAN_IMAGE = Normalise(mean="image")


def _built_in(name: str, **others: Any) -> Problem:
    """Return a built-in problem of its facts and the other fields.

    Unless these say otherwise its last images are held out, as in the source.
    """
    return Problem(**vars(FACTS[name]), **{"validation": 10_000, "hold_out": "last", "recordable": True, **others})


BUILT_IN: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        _built_in("lenet", network=lenet.lenet, solver=lenet.LENET_SOLVER, normalise=Normalise(scale=1 / 256)),
        _built_in(
            "cq",
            network=cifar.cq,
            solver=cifar.CQ_SOLVER,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
        ),
        _built_in(
            "alexlrn",
            network=cifar.alexlrn,
            solver=cifar.ALEXLRN_SOLVER,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
        ),
        _built_in(
            "alexbn",
            network=cifar.alexbn,
            solver=cifar.ALEXBN_SOLVER,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
        ),
        _built_in("mlp", network=mlp.mlp, solver=mlp.MLP_SOLVER, normalise=Normalise(scale=1 / 255), edition=2),
        _built_in(
            "meprop",
            network=meprop.meprop,
            solver=meprop.MEPROP_SOLVER,
            normalise=Normalise(scale=1 / 255),
            loss=meprop.summed_cross_entropy,
            measure="error",
            validation=5_000,
            hold_out="first",
        ),
    )
}


def built_in(name: str) -> Problem | None:
    """Return the built-in problem `NAME`, or `NAME:OPTION=VALUE,…`, always the same object; None where there is none.

    Raises:
        UsageError: an option that it does not have, or a value that its network does not take.
    """
    if not names_built_in(name):
        return None
    plain, _, options = name.partition(":")
    return with_options(BUILT_IN[plain], options) if options else BUILT_IN[plain]


def called(name: str, others: str = "give your own as FILE.py:NAME") -> Problem:
    """Return the built-in problem of this name.

    Raises UsageError where there is none; `others` says how those are given that are not built in.
    """
    found = built_in(name)
    if found is not None:
        return found
    near = [] if "." in name else difflib.get_close_matches(name[:99].lower(), BUILT_IN, n=1, cutoff=0.3)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UsageError(f"no problem is called {brief(repr(name))}{hint}: there are {', '.join(BUILT_IN)}, or {others}")


def is_built_in(problem: Problem) -> bool:
    """Tell whether it is one of ours, as it is."""
    try:
        own = built_in(problem.name)
    except UsageError:  # a user's, by a name that only looks like one
        return False
    # What a search itself sets.
    return own is not None and replace(problem, stan_layers=own.stan_layers, course=own.course) == own


def find(name: str) -> Problem:
    """Return the built-in problem called `name`, which may have options, or the one that `FILE.py:ATTRIBUTE` defines.

    FILE.py alone is taken where it has one Problem.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    found = built_in(name)
    if found is not None:
        return found
    file, colon, attribute = name.rpartition(":")
    if not colon and name.endswith(".py"):
        return _from_file(Path(name), None)
    if not colon:
        return called(name)
    return _from_file(Path(file), attribute)


def _from_file(path: Path, attribute: str | None) -> Problem:
    module = load_file(path, "stantune_problem")
    have = {key: value for key, value in vars(module).items() if isinstance(value, Problem)}
    if attribute is None and len(have) == 1:
        [attribute] = have
    if attribute is None:
        remedy = "make one; its objectives, if it has any, are for `search`, `brackets` and `study`"
        there = f"{len(have)} of them ({', '.join(have)}); give {path}:NAME" if have else f"none; {remedy}"
        raise UsageError(f"{path} is taken where it has one Problem, and it has {there}")
    if attribute not in have:
        raise UsageError(f"{path} has no Problem called {attribute!r}; it has {', '.join(have) or 'none'}")
    return have[attribute]
