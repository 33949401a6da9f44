"""Where STAN changes nothing in a problem's network: that is said once, before the first training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from stantune.errors import NoEffectWarning
from stantune.images.problem.built_in import Problem
from stantune.stan.config import Stan
from stantune.stan.surgery import accelerate_saying_


def of_no_effect(problem: Problem, stan: Stan) -> list[str]:
    """Return what is to be said where STAN changes nothing in the network of the problem's own numbers.

    Nothing where nobody asked for anything to be spared.
    """
    if stan.spares_nothing:
        return []
    # What the planner leaves of "auto" shows only in the training.
    tried = replace(stan, rate=0.5) if stan.rate == "auto" else stan
    said: list[str] = []
    accelerate_saying_(problem.tried({}), tried, lambda why: said.append(f"note: {why}"))
    return said


@contextmanager
def said_already() -> Iterator[None]:
    """Be silent, in a training, where STAN changes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        yield
