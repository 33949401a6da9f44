"""Draws settings with Optuna's samplers, at random or by a model; turns a space into distributions and back."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer, Parameter
from stantune.seeds import derive
from stantune.space import Space

# What a choice that is a tuple begins with as Optuna has it: a text, since Optuna's choices are no tuples.
_TUPLE = "tuple:"


class _Quiet:
    """What Optuna, whose verbosity is the process's, is to be silent about for all who ask for that at a time.

    Attributes:
        lock: of those who change it.
        levels: that are asked for now.
        before: the program's own, as the first of them found it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.levels: list[int] = []
        self.before = 0

    def begin(self, level: int) -> None:
        """Log nothing below a level."""
        with self.lock:
            if not self.levels:
                self.before = optuna.logging.get_verbosity()
            self.levels.append(level)
            optuna.logging.set_verbosity(max(self.before, *self.levels))

    def end(self, level: int) -> None:
        """Log it again, unless another one asked for that, too."""
        with self.lock:
            self.levels.remove(level)
            optuna.logging.set_verbosity(max([self.before, *self.levels]))


_quiet = _Quiet()
if hasattr(os, "register_at_fork"):
    # No copy of the process begins where another thread has the lock.
    os.register_at_fork(
        before=_quiet.lock.acquire, after_in_parent=_quiet.lock.release, after_in_child=_quiet.lock.release
    )


@contextmanager
def optuna_quiet(level: int = optuna.logging.WARNING) -> Iterator[None]:
    """Silence Optuna's lines below a level within, and leave its verbosity as the program around us has set it.

    For all threads: Optuna has one verbosity. The last of those who are here at a time puts it back.
    """
    _quiet.begin(level)
    try:
        yield
    finally:
        _quiet.end(level)


def to_distribution(parameter: Parameter) -> BaseDistribution:
    """Return Optuna's distribution for a parameter."""
    if isinstance(parameter, Float):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    if isinstance(parameter, Integer):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return CategoricalDistribution([_to_optuna(choice) for choice in parameter.choices])


def from_distribution(distribution: BaseDistribution) -> Parameter | None:
    """Return the parameter that `to_distribution` makes this of, or None for one that it never makes."""
    try:
        if isinstance(distribution, FloatDistribution):
            return Float(distribution.low, distribution.high, distribution.log, distribution.step)
        if isinstance(distribution, IntDistribution):
            return Integer(distribution.low, distribution.high, distribution.log, distribution.step)
        if isinstance(distribution, CategoricalDistribution):
            return Categorical(tuple(_from_optuna(choice) for choice in distribution.choices))
    except UsageError:
        pass
    return None


def to_optuna(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting as the distributions of `to_distribution` have it, for a study: a tuple is a text there."""
    return {name: _to_optuna(value) for name, value in params.items()}


def from_optuna(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting that `to_optuna` makes this of; also a list, which JSON makes of a tuple, as the tuple."""
    return {name: _from_optuna(value) for name, value in params.items()}


def _to_optuna(value: Any) -> Any:
    # A text that looks like a tuple's is told apart from it by being one inside.
    special = isinstance(value, tuple) or (isinstance(value, str) and value.startswith(_TUPLE))
    return f"{_TUPLE}{json.dumps(value)}" if special else value


def _from_optuna(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_TUPLE):
        try:
            value = json.loads(value.removeprefix(_TUPLE))
        except ValueError:
            return value
    return _tupled(value)


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def sample(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Draw the setting of trial `number` at random: a pure function of its arguments, whatever was drawn before."""
    study, trial = _nowhere()
    return _complete(space, _draw(space, _random_sampler(seed, number), study, trial))


class Model:
    """Tree-structured Parzen estimators over a few observations, by Optuna (multivariate TPE).

    One model serves any number of proposals; a proposal depends on the observations, the seed and the trial's number.
    """

    def __init__(self, space: Space, observed: Sequence[tuple[Mapping[str, Any], float]]) -> None:
        """Take settings of the space with their errors, oldest first; an infinite error is the worst."""
        self._space = space
        self._distributions = {name: to_distribution(parameter) for name, parameter in space.items()}
        self._modelled = {name for name, parameter in space.items() if _has_width(parameter)}
        with optuna_quiet():
            self._study = optuna.create_study()
        self._study.add_trials(
            [
                create_trial(
                    params=to_optuna(params),
                    distributions={name: self._distributions[name] for name in params},
                    value=error,
                )
                for params, error in observed
            ]
        )

    def sample(self, seed: int, number: int) -> dict[str, Any]:
        """Propose the setting of trial `number`.

        Parameters that always exist are drawn together, then those that exist because of their values, and so on.
        """
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=1, multivariate=True, constant_liar=False, seed=_seed(seed, number)
        )
        _, trial = _nowhere()
        # For what no model is made of: a parameter with one value, or one that no observation has.
        drawn = _draw(self._space, _random_sampler(seed, number), self._study, trial)
        setting: dict[str, Any] = {}
        while fresh := [name for name in self._space.active(setting) if name not in setting]:
            several = {name: self._distributions[name] for name in fresh if name in self._modelled}
            # In a range of very many values a share may be too small for a double; none of that one's are drawn.
            with np.errstate(all="ignore"):
                modelled = sampler.sample_relative(self._study, trial, several)
            setting |= {name: drawn[name] for name in fresh} | within(self._space, modelled)
        return _complete(self._space, setting)


def _has_width(parameter: Parameter) -> bool:
    """Tell whether there are several values, and doubles for the widths of the bells that a model lays over them."""
    if to_distribution(parameter).single():
        return False
    if not isinstance(parameter, Float):
        return True
    scale = math.log if parameter.log else float
    return scale(parameter.high) - scale(parameter.low) > 1e-300


def within(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that an Optuna sampler has drawn as ours.

    A number that its rounding has put outside of the range, as a logarithm and back do, is the range's end.
    """
    values = from_optuna(drawn)
    for name, value in values.items():
        parameter = space[name]
        if not isinstance(parameter, Categorical):
            values[name] = min(max(value, parameter.low), parameter.high)
    return values


def _draw(
    space: Space, sampler: optuna.samplers.BaseSampler, study: optuna.Study, trial: FrozenTrial
) -> dict[str, Any]:
    """Draw a value for every parameter, also for those that will not exist or have one value."""
    drawn = {
        name: sampler.sample_independent(study, trial, name, to_distribution(parameter))
        for name, parameter in space.items()
    }
    return within(space, drawn)


def _complete(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return what exists of the values drawn, as plain numbers: Optuna's at the very end of a range are NumPy's."""
    return space.check({name: drawn[name] for name in space.active(drawn)}, complete=True)


def _random_sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=_seed(seed, number))


def _seed(seed: int, number: int) -> int:
    # NumPy's generator, which the samplers use, takes seeds of 32 bits.
    return derive("sample", seed, number) % 2**32


@cache
def _nowhere() -> tuple[optuna.Study, FrozenTrial]:
    """Return the study and trial that a sampler wants to be told, and that a random one does not look at."""
    with optuna_quiet():
        return optuna.create_study(), create_trial(state=TrialState.RUNNING)
