"""What a search is given about its settings: parameters that are fixed, and settings that are tried first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.search.plan.values import PastTrial
from stantune.space import Space


def fixed_values(space: Space, fixed: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of the parameters that have one value in all settings, in the space's order and plain.

    Raises UsageError, which names the parameter and the nearest valid value.
    """
    try:
        space.without(fixed)
        return {name: space.check_value(name, fixed[name]) for name in space if name in fixed}
    except UsageError as error:
        raise UsageError(f"`fixed`: {error}") from None


def enqueued_settings(
    space: Space, fixed: Mapping[str, object], enqueue: Sequence[Mapping[str, object]]
) -> list[dict[str, Any]]:
    """Return the settings that are tried first, complete and plain; what is fixed may be left out of them.

    Raises UsageError, which names the setting's place, the parameter and the nearest valid value.
    """
    values = fixed_values(space, fixed)
    settings = []
    for place, setting in enumerate(enqueue):
        try:
            settings.append(_enqueued(space, values, setting))
        except UsageError as error:
            raise UsageError(f"setting {place} of `enqueue`: {error}") from None
    return settings


def with_fixed(space: Space, fixed: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting of what is left to choose together with the fixed values that exist in it."""
    whole = {**setting, **fixed}
    return {name: whole[name] for name in space.active(whole)}


def has_fixed(params: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    """Tell whether a setting has the fixed values, of the parameters that exist in it."""
    return all(params.get(name, value) == value for name, value in fixed.items())


def past_of(left: Space, fixed: Mapping[str, Any], trials: Sequence[PastTrial]) -> tuple[PastTrial, ...]:
    """Return the trials of an earlier search that have the fixed values, without these in their settings."""
    found = []
    for trial in trials:
        params = {name: value for name, value in trial.params.items() if name not in fixed}
        if has_fixed(trial.params, fixed):
            try:
                left.check(params, complete=True)
            except UsageError:
                continue
            found.append(PastTrial(trial.number, params, trial.results))
    return tuple(found)


def _enqueued(space: Space, fixed: Mapping[str, Any], setting: Mapping[str, object]) -> dict[str, Any]:
    if not isinstance(setting, Mapping):
        raise UsageError(f"it is {shown(setting)}; give a dict of parameters and their values")
    values = {name: space.check_value(name, value) for name, value in setting.items()}
    for name, value in fixed.items():
        if values.get(name, value) != value:
            raise UsageError(f"{name} is {values[name]}, but it is fixed; give {value}, or leave it out")
    whole = {**values, **fixed}
    exist = space.active(whole)
    return space.check({name: whole[name] for name in whole if name in exist or name in values}, complete=True)
