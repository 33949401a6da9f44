"""Draws settings with Optuna's samplers, and turns a space into Optuna's distributions and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from stantune.errors import UsageError
from stantune.seeds import derive
from stantune.space import Categorical, Float, Integer, Parameter, Space

SAMPLERS = ("random",)


@contextmanager
def optuna_quiet() -> Iterator[None]:
    """Silence Optuna's INFO lines within, and leave its verbosity as the program around us has set it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def to_distribution(parameter: Parameter) -> BaseDistribution:
    """Return Optuna's distribution for a parameter."""
    if isinstance(parameter, Float):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Integer):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log)
    return CategoricalDistribution(parameter.choices)


def from_distribution(distribution: BaseDistribution) -> Parameter | None:
    """Return the parameter that `to_distribution` makes this of, or None for one that it never makes."""
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return Float(distribution.low, distribution.high, distribution.log)
    if isinstance(distribution, IntDistribution) and distribution.step == 1:
        return Integer(distribution.low, distribution.high, distribution.log)
    if isinstance(distribution, CategoricalDistribution):
        return Categorical(tuple(distribution.choices))
    return None


def sample(space: Space, sampler_name: str, seed: int, number: int) -> dict[str, Any]:
    """Draw the setting of trial `number`: a pure function of its arguments, whatever was drawn before.

    Raises UsageError for an unknown sampler.
    """
    if sampler_name not in SAMPLERS:
        raise UsageError(f"there is no sampler {sampler_name!r}: give {' or '.join(SAMPLERS)}")
    # NumPy's generator, which the sampler uses, takes seeds of 32 bits.
    sampler = optuna.samplers.RandomSampler(seed=derive("sample", seed, number) % 2**32)
    study, trial = _nowhere()
    drawn = {
        name: sampler.sample_independent(study, trial, name, to_distribution(parameter))
        for name, parameter in space.items()
    }
    # Optuna's draws at the very end of a range are NumPy scalars; `check` makes them plain numbers.
    return space.check(drawn, complete=True)


@cache
def _nowhere() -> tuple[optuna.Study, FrozenTrial]:
    """Return the study and trial that a sampler wants to be told, and that a random one does not look at."""
    with optuna_quiet():
        return optuna.create_study(), create_trial(state=TrialState.RUNNING)
