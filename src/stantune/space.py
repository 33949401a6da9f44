"""A search space: named parameters, each with its range and scale, that check and parse settings."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from stantune.errors import UsageError

# Optuna keeps every number as a double, which holds integers exactly up to here.
_LARGEST_INTEGER = 2**53

Choice: TypeAlias = "bool | int | float | str | None"


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]; `log` searches it evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty or endless range, and a logarithmic one that is not positive (UsageError)."""
        _check_range(self, smallest_log=0.0)

    def check(self, name: str, value: object) -> float:
        """Return `value` as a float; raises UsageError, which names the nearest valid value."""
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise UsageError(f"{name} is {value!r}, but it is a number from {self.low:g} to {self.high:g}")
        if not self.low <= value <= self.high:
            raise _outside(name, value, self)
        return float(value)

    def parse(self, name: str, text: str) -> float:
        """Read `text` from the command line; raises UsageError as `check` does."""
        try:
            value = float(text)
        except ValueError:
            raise UsageError(f"{name} is {text!r}, but it is a number from {self.low:g} to {self.high:g}") from None
        return self.check(name, value)


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]; `log` searches it evenly in its logarithm."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty range, and a logarithmic one that begins below 1 (UsageError)."""
        _check_range(self, smallest_log=1)
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int) or abs(end) > _LARGEST_INTEGER:
                raise UsageError(f"{self} ends at {end!r}, which is no whole number of at most 2**53")

    def check(self, name: str, value: object) -> int:
        """Return `value`; raises UsageError, which names the nearest valid value."""
        if isinstance(value, bool) or not isinstance(value, int):
            nearest = ""
            if isinstance(value, float) and math.isfinite(value):
                nearest = f"; the nearest valid value is {min(max(round(value), self.low), self.high)}"
            raise UsageError(f"{name} is {value!r}, but it is a whole number from {self.low} to {self.high}{nearest}")
        if not self.low <= value <= self.high:
            raise _outside(name, value, self)
        return value

    def parse(self, name: str, text: str) -> int:
        """Read `text` from the command line ("100" or "1e2"); raises UsageError as `check` does."""
        value: int | float | str
        try:
            value = int(text)
        except ValueError:
            try:
                value = float(text)
            except ValueError:
                value = text
            else:
                value = int(value) if value.is_integer() else value
        return self.check(name, value)


@dataclass(frozen=True)
class Categorical:
    """One of a few choices: texts, numbers, true, false or None."""

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        """Refuse no choices at all, choices that are no plain values, and equal ones (UsageError)."""
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices:
            raise UsageError("a categorical parameter needs at least one choice")
        for choice in self.choices:
            if choice is not None and not isinstance(choice, bool | int | float | str):
                raise UsageError(f"{choice!r} cannot be a choice: give texts, numbers, true, false or None")
        # 1, 1.0 and True are equal in Python, and as texts they would not be told apart either.
        if len(set(self.choices)) < len(self.choices):
            raise UsageError(f"the choices {list(self.choices)} hold equal ones: give each choice once")

    def check(self, name: str, value: object) -> Choice:
        """Return the choice equal to `value`; raises UsageError, which names the nearest one."""
        for choice in self.choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise self._unknown(name, str(value))

    def parse(self, name: str, text: str) -> Choice:
        """Read `text` from the command line: a choice as Python prints it, in upper or lower case."""
        for candidates in (
            [choice for choice in self.choices if str(choice) == text],
            [choice for choice in self.choices if str(choice).lower() == text.lower()],
        ):
            if len(candidates) == 1:
                return candidates[0]
        raise self._unknown(name, text)

    def _unknown(self, name: str, text: str) -> UsageError:
        known = [str(choice) for choice in self.choices]
        return UsageError(f"{name} is {text!r}, but it is one of {', '.join(known)}{_did_you_mean(text, known)}")


Parameter: TypeAlias = "Float | Integer | Categorical"
# Of each conditional parameter, its parents with the value or the values that each must have.
When: TypeAlias = "Mapping[str, Mapping[str, Choice | Iterable[Choice]]]"
_NOTHING = object()


class Space(Mapping[str, Parameter]):
    """An ordered, unchanging mapping of parameter names to their ranges, some of which exist under conditions only.

    Attributes:
        when: of each conditional parameter, the values that other parameters, its parents, must have for it to exist.
            A parent that does not exist itself has no value, so conditions nest.
    """

    def __init__(self, parameters: Mapping[str, Parameter], when: When | None = None) -> None:
        """Take `parameters` in their order; `when={"momentum": {"kind": "sgd"}, "width2": {"layers": (2, 3)}}`.

        Raises UsageError for a name that `--set` could not give and for a condition that could never be met or would
        never be decided.
        """
        for name, parameter in parameters.items():
            if not name.isidentifier():
                raise UsageError(f"{name!r} cannot name a parameter: use letters, digits and underscores")
            if not isinstance(parameter, Float | Integer | Categorical):
                raise UsageError(f"{name} is {parameter!r}: give a Float, an Integer or a Categorical")
        self._parameters = dict(parameters)
        self.when = {name: self._conditions(name, conditions) for name, conditions in (when or {}).items()}
        self._parents_first = self._sorted()

    def __getitem__(self, name: str) -> Parameter:
        """Return the parameter of that name (KeyError where there is none)."""
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order given."""
        return iter(self._parameters)

    def __len__(self) -> int:
        """Count the parameters."""
        return len(self._parameters)

    def __eq__(self, other: object) -> bool:
        """Tell whether names, ranges and conditions are the same."""
        return isinstance(other, Space) and (self._parameters, self.when) == (other._parameters, other.when)

    def __repr__(self) -> str:
        """Show the parameters as they would be written."""
        return f"Space({self._parameters!r}{f', when={self.when!r}' if self.when else ''})"

    def active(self, setting: Mapping[str, object]) -> list[str]:
        """Return the names of the parameters that exist in `setting`, in the space's order.

        What depends on a parent that `setting` lacks does not exist.
        """
        there: set[str] = set()
        for name in self._parents_first:
            conditions = self.when.get(name, {})
            if all(parent in there and setting.get(parent, _NOTHING) in met for parent, met in conditions.items()):
                there.add(name)
        return [name for name in self if name in there]

    def check(self, setting: Mapping[str, object], complete: bool = False) -> dict[str, Any]:
        """Return `setting` in the space's order, whole numbers for Float parameters as floats.

        With `complete` every parameter that exists in it must be there. Raises UsageError, which names the parameter,
        the value and the nearest valid value or name, or says why the parameter does not exist here.
        """
        for name in setting:
            self._find(name)
        checked = {name: self[name].check(name, setting[name]) for name in self if name in setting}
        active = self.active(checked)
        for name in checked:
            if name not in active:
                raise UsageError(self._why_not(name, checked, active))
        missing = [name for name in active if name not in setting]
        if complete and missing:
            raise UsageError(f"the setting lacks {', '.join(missing)}: give a value for each parameter")
        return checked

    def parse(self, name: str, text: str) -> Any:
        """Read the value of one parameter from the command line (`--set NAME=TEXT`); raises UsageError."""
        return self._find(name).parse(name, text)

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Describe the space in plain values: per name the kind ("float", ...) and the fields of its class.

        A conditional parameter has its conditions as "when".
        """
        return {
            name: {"kind": type(parameter).__name__.lower(), **asdict(parameter)}
            | ({"when": {parent: list(met) for parent, met in self.when[name].items()}} if name in self.when else {})
            for name, parameter in self.items()
        }

    def _find(self, name: str) -> Parameter:
        if name not in self._parameters:
            known = list(self)
            raise UsageError(
                f"there is no parameter {name!r}: the space has {', '.join(known) or 'none'}"
                f"{_did_you_mean(name, known)}"
            )
        return self._parameters[name]

    def _why_not(self, name: str, setting: Mapping[str, object], active: Sequence[str]) -> str:
        """Say why a parameter that is given does not exist: by the first condition that is not met."""
        parent = next(
            parent
            for parent, met in self.when[name].items()
            if parent not in active or setting.get(parent, _NOTHING) not in met
        )
        if parent not in setting:
            remedy = f"give {parent} as well, or leave {name} out"
        elif parent not in active:
            return self._why_not(parent, setting, active)
        else:
            remedy = f"here {parent} is {setting[parent]}, so leave {name} out"
        return f"{name} exists only where {condition_text(self.when[name])}: {remedy}"

    def _conditions(self, name: str, conditions: Mapping[str, object]) -> dict[str, tuple[Choice, ...]]:
        """Return the conditions of a parameter with their values as tuples."""
        if name not in self._parameters:
            raise UsageError(
                f"a condition is given for {name!r}, which is no parameter: the space has {', '.join(self)}"
                f"{_did_you_mean(name, list(self))}"
            )
        found = {}
        for parent, values in conditions.items():
            if parent not in self._parameters:
                raise UsageError(
                    f"{name} depends on {parent!r}, which is no parameter: the space has {', '.join(self)}"
                    f"{_did_you_mean(parent, list(self))}"
                )
            if isinstance(self[parent], Float):
                raise UsageError(
                    f"{name} depends on {parent}, a Float, which hardly ever has one given value: make a condition on "
                    "an Integer or a Categorical"
                )
            single = values is None or isinstance(values, bool | int | float | str)
            met = (values,) if single else tuple(values)  # type: ignore[arg-type]
            if not met:
                raise UsageError(f"{name} depends on {parent}, but on none of its values: give at least one")
            try:
                found[parent] = tuple(self[parent].check(parent, value) for value in met)
            except UsageError as error:
                raise UsageError(f"{name} can never exist under one of its conditions: {error}") from None
        return found

    def _sorted(self) -> list[str]:
        """Return the names, parents before those that depend on them."""
        done: dict[str, None] = {}
        left = list(self)
        while left:
            free = [name for name in left if all(parent in done for parent in self.when.get(name, {}))]
            if not free:
                raise UsageError(f"{self._circle(left)}: let each depend on parameters that do not depend on it")
            done |= dict.fromkeys(free)
            left = [name for name in left if name not in done]
        return list(done)

    def _circle(self, undecided: Sequence[str]) -> str:
        """Name the parameters of a circle among those that are never decided, each of which depends on another one."""
        path = [undecided[0]]
        while path[-1] not in path[:-1]:
            path.append(next(parent for parent in self.when[path[-1]] if parent in undecided))
        return " depends on ".join(path[path.index(path[-1]) :])


def condition_text(conditions: Mapping[str, Iterable[Choice]]) -> str:
    """Say in words when a conditional parameter exists; "" where there are no conditions."""
    return " and ".join(f"{parent} is {' or '.join(map(str, met))}" for parent, met in conditions.items())


def _check_range(parameter: Float | Integer, smallest_log: float) -> None:
    if not (math.isfinite(parameter.low) and math.isfinite(parameter.high)):
        raise UsageError(f"{parameter} has an end that is no finite number")
    if parameter.low > parameter.high:
        raise UsageError(f"{parameter} is empty: low is above high")
    if parameter.log and (parameter.low <= 0 or parameter.low < smallest_log):
        raise UsageError(f"{parameter} has no logarithm at its low end: begin above zero")


def _outside(name: str, value: float, parameter: Float | Integer) -> UsageError:
    nearest = parameter.low if value < parameter.low else parameter.high
    return UsageError(
        f"{name} is {value}, outside its range from {parameter.low} to {parameter.high}; "
        f"the nearest valid value is {nearest}"
    )


def _did_you_mean(text: str, known: list[str]) -> str:
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
    return f"; the nearest is {close[0]}" if close else ""
