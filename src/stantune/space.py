"""A search space: named parameters, each with its range and scale, that check and parse settings."""

from __future__ import annotations

import decimal
import difflib
import math
import numbers
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from stantune.arguments import shown, text, typed_number
from stantune.errors import UsageError

# Optuna keeps every number as a double, which holds integers exactly up to here.
_LARGEST_INTEGER = 2**53
# A value counts as a multiple of a step where it is off by less than this share of one, as in Optuna.
_OFF_STEP = 1e-8
# Doubles must tell the multiples of a step apart so much better than that.
_FINEST_STEP = 1e-9
# So deep may tuples be in one another; Python itself ends at some hundred.
_DEEPEST = 20
_DECIMALS = decimal.Context(prec=50)
# What the name of a layer's weight decay ends with.
_OF_LAYERS = "_l2"

# A tuple holds choices, tuples among them.
Choice: TypeAlias = "bool | int | float | str | tuple[Any, ...] | None"


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]; `log` searches it evenly in its logarithm.

    With `step` it is one of low, low + step, ..., high, and the value nearest to a multiple in decimal: 0.3, not
    0.30000000000000004.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty or endless range, a logarithmic one that is not positive, a step that misses `high`."""
        for end in ("low", "high") if self.step is None else ("low", "high", "step"):
            number, double = _number_of(self, end), _double(_number_of(self, end))
            # A whole number that a double does not hold would be outside of its own range once it is one.
            object.__setattr__(self, end, number if number == double else double)
        _check_log(self)
        _check_range(self, smallest_log=0.0)
        if not math.isfinite(float(self.high) - float(self.low)):
            raise UsageError(f"{self} is too wide: high - low is no finite number; give a smaller range, or `log=True`")
        if self.step is not None:
            self._check_step(self.step)

    def check(self, name: str, value: object) -> float:
        """Return `value` as a float; raises UsageError, which names the nearest valid value.

        What rounding has put just outside of the range is taken as its end.
        """
        number = _plain(value)
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
            raise UsageError(f"{name} is {_shown(value)}, but it is a number from {self.low:g} to {self.high:g}")
        if not self.low <= number <= self.high:
            end = self.low if number < self.low else self.high
            off = abs(_double(number) - end)
            if not _is_rounded(number, end) and (self.step is None or off >= _OFF_STEP * self.step):
                raise _outside(name, number, self)
            number = end
        if self.step is not None:
            steps = (number - self.low) / self.step
            if abs(steps - round(steps)) >= _OFF_STEP:
                raise _off_step(name, number, self, self._multiple(round(steps)))
            return self._multiple(round(steps))
        return float(number)

    def parse(self, name: str, text: str) -> float:
        """Read `text` from the command line; raises UsageError as `check` does."""
        value = typed_number(text)
        if value is None:
            raise UsageError(f"{name} is {shown(text)}, but it is a number from {self.low:g} to {self.high:g}")
        return self.check(name, value)

    def _multiple(self, steps: int) -> float:
        """Return the value so many steps above `low`."""
        return float(_DECIMALS.fma(steps, _decimal(self.step), _decimal(self.low)))

    def _check_step(self, step: float) -> None:
        if self.log:
            raise UsageError(f"{self} has steps on a logarithmic scale: leave out `step` or `log`")
        if not 0 < step < math.inf:
            raise UsageError(f"{self} goes in steps of {step}: give a step above zero, or none")
        if max(abs(self.low), abs(self.high)) * 2**-52 > _FINEST_STEP * step:
            raise UsageError(f"{self} has too fine a step to tell its values apart: give a larger step, or none")
        steps, rest = self._steps_to(self.high, step)
        if not rest:
            return
        reached = self._multiple(int(steps) + (2 * rest > _decimal(step)))
        if abs(reached - self.high) >= _OFF_STEP * step:
            raise UsageError(
                f"{self} does not reach high in steps of {step}: the nearest high that it does is {reached}"
            )
        if self._steps_to(reached, step)[1]:
            # Optuna would take another end, and warn of it each time that it reads the trial table.
            raise UsageError(
                f"{self} reaches high in steps of {step} only with more digits than a number has: give a rounder step"
            )
        # 3 * 0.1, say, which is not quite 0.3.
        object.__setattr__(self, "high", reached)

    def _steps_to(self, high: float, step: float) -> tuple[decimal.Decimal, decimal.Decimal]:
        """Return how many whole steps there are up to an end, and what is left then, in decimal as in Optuna."""
        return _DECIMALS.divmod(_DECIMALS.subtract(_decimal(high), _decimal(self.low)), _decimal(step))


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high], one of low, low + step, ...; `log` searches it evenly in its logarithm."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        """Refuse an empty range, a logarithmic one that begins below 1, a step that misses `high` (UsageError)."""
        for end in ("low", "high", "step"):
            object.__setattr__(self, end, _number_of(self, end))
        _check_log(self)
        _check_range(self, smallest_log=1)
        for number in (self.low, self.high):
            if not isinstance(number, int) or abs(number) > _LARGEST_INTEGER:
                raise UsageError(f"{self} ends at {number!r}, which is no whole number of at most 2**53")
        if not isinstance(self.step, int) or not 1 <= self.step <= _LARGEST_INTEGER:
            raise UsageError(f"{self} goes in steps of {self.step}: give a whole number, 1 or more")
        if self.log and self.step != 1:
            raise UsageError(f"{self} has steps on a logarithmic scale: leave out `step` or `log`")
        if (self.high - self.low) % self.step:
            raise UsageError(
                f"{self} does not reach high in steps of {self.step}: the nearest high that it does is "
                f"{self._multiple(self.high, beyond=True)}"
            )

    def check(self, name: str, value: object) -> int:
        """Return `value`; raises UsageError, which names the nearest valid value."""
        number = _plain(value)
        if isinstance(number, bool) or not isinstance(number, int):
            nearest = ""
            if isinstance(number, float) and math.isfinite(number):
                nearest = f"; the nearest valid value is {self._multiple(number)}"
            raise UsageError(
                f"{name} is {_shown(value)}, but it is a whole number from {self.low} to {self.high}{nearest}"
            )
        if not self.low <= number <= self.high:
            raise _outside(name, number, self)
        if (number - self.low) % self.step:
            raise _off_step(name, number, self, self._multiple(number))
        return number

    def parse(self, name: str, text: str) -> int:
        """Read `text` from the command line ("100" or "1e2"); raises UsageError as `check` does."""
        value: int | float | str = text
        number = typed_number(text)
        if number is not None:
            try:
                value = int(text)
            except ValueError:
                value = int(number) if number.is_integer() else number
        return self.check(name, value)

    def _multiple(self, number: float, beyond: bool = False) -> int:
        """Return the value that is nearest to a number, the lower of two; it may go `beyond` high."""
        number = max(number, self.low) if beyond else min(max(number, self.low), self.high)
        steps, rest = divmod(number - self.low, self.step)
        return self.low + (int(steps) + (2 * rest > self.step)) * self.step


@dataclass(frozen=True)
class Categorical:
    """One of a few choices: texts, numbers, true, false or None, or tuples of these."""

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        """Refuse no choices at all, choices that are no plain values or have no order, equal ones (UsageError)."""
        given: object = self.choices
        if isinstance(given, set | frozenset | Mapping):
            raise UsageError(
                f"the choices are a {type(given).__name__}, whose order need not be the same tomorrow: "
                "give a list or a tuple"
            )
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise UsageError(f"the choices are {_shown(given)}: give a list or a tuple of choices")
        try:
            choices = tuple(_plain(choice) for choice in given)
        except TypeError:  # an array of no dimension
            raise UsageError(f"the choices are {_shown(given)}: give a list or a tuple of choices") from None
        object.__setattr__(self, "choices", choices)
        if not self.choices:
            raise UsageError("a categorical parameter needs at least one choice")
        for choice in self.choices:
            _check_choice(choice)
        # 1, 1.0 and True are equal in Python, and as texts they would not be told apart either.
        if len(set(self.choices)) < len(self.choices):
            raise UsageError(f"the choices {list(self.choices)} hold equal ones: give each choice once")

    def check(self, name: str, value: object) -> Choice:
        """Return the choice equal to `value`; raises UsageError, which names the nearest one.

        A list stands for the tuple with the same values, since in JSON a tuple is a list.
        """
        plain = _tupled(_plain(value))
        for choice in self.choices:
            if _same(choice, plain):
                return choice
        raise self._unknown(name, plain if isinstance(plain, str) else _shown(value))

    def parse(self, name: str, text: str) -> Choice:
        """Read `text` from the command line: a choice as Python prints it, in upper or lower case."""
        for candidates in (
            [choice for choice in self.choices if str(choice) == text],
            [choice for choice in self.choices if _closely(choice, str(choice)) == _closely(choice, text)],
        ):
            if len(candidates) == 1:
                return candidates[0]
        raise self._unknown(name, text)

    def _unknown(self, name: str, text: str) -> UsageError:
        known = [str(choice) for choice in self.choices]
        return UsageError(f"{name} is {shown(text)}, but it is one of {', '.join(known)}{_did_you_mean(text, known)}")


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

        A tuple that is a choice of the parent stands for this choice, and not for the values in it. Raises UsageError
        for a name that is neither a Python name nor the weight decay of a layer ("features.0_l2"), and for a condition
        that could never be met or would never be decided.
        """
        _check_mapping("the parameters of a space", parameters, "{'lr': Float(1e-4, 1, log=True)}")
        for name, parameter in parameters.items():
            if not isinstance(name, str) or not _is_name(name):
                raise UsageError(f"{shown(name)} cannot name a parameter: use letters, digits and underscores")
            text("a parameter's name", name)  # of a length
            if not isinstance(parameter, Float | Integer | Categorical):
                raise UsageError(f"{name} is {_shown(parameter)}: give a Float, an Integer or a Categorical")
        self._parameters = dict(parameters)
        if when is not None:
            _check_mapping("the conditions of a space, `when`,", when, "{'momentum': {'optimizer': 'sgd'}}")
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
            if all(
                parent in there and _tupled(setting.get(parent, _NOTHING)) in met for parent, met in conditions.items()
            ):
                there.add(name)
        return [name for name in self if name in there]

    def check(self, setting: Mapping[str, object], complete: bool = False) -> dict[str, Any]:
        """Return `setting` in the space's order, in plain values: whole numbers for Float parameters as floats.

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

    def check_value(self, name: str, value: object) -> Any:
        """Return the value of one parameter as `check` does, whether it exists or not; raises UsageError."""
        return self._find(name).check(name, value)

    def without(self, fixed: Mapping[str, object]) -> Space:
        """Return the space of what is left to choose where the parameters in `fixed` have these values.

        What depends on them exists there under the conditions that are left, or is left out. Raises UsageError where a
        value is not valid, or a fixed parameter cannot exist because of the others.
        """
        values = {name: self.check_value(name, value) for name, value in fixed.items()}
        # Of each parameter that can exist: what the parameters that are left must be for that.
        left: dict[str, dict[str, tuple[Choice, ...]]] = {}
        for name in self._parents_first:
            conditions: dict[str, tuple[Choice, ...]] = {}
            for parent, met in self.when.get(name, {}).items():
                if parent not in left or (parent in values and values[parent] not in met):
                    break
                # A fixed parent exists where what it depends on allows it; one that is left says so itself.
                for other, allowed in (left[parent] if parent in values else {parent: met}).items():
                    conditions[other] = tuple(value for value in conditions.get(other, allowed) if value in allowed)
            else:
                if all(conditions.values()):
                    left[name] = conditions
            if name in values and name not in left:
                raise UsageError(
                    f"{name} is fixed, but exists only where {condition_text(self.when[name])}, which the other fixed "
                    f"values rule out: leave {name} out"
                )
        names = [name for name in self if name in left and name not in values]
        return Space({name: self[name] for name in names}, {name: left[name] for name in names if left[name]})

    def parse(self, name: str, text: str) -> Any:
        """Read the value of one parameter from the command line (`--set NAME=TEXT`); raises UsageError."""
        return self._find(name).parse(name, text)

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Describe the space in plain values: per name the kind ("float", ...) and the fields of its class.

        A conditional parameter has its conditions as "when"; "step" is there only where it is given.
        """
        return {
            name: {"kind": type(parameter).__name__.lower(), **_fields_of(parameter)}
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
                f"a condition is given for {shown(name)}, which is no parameter: the space has {', '.join(self)}"
                f"{_did_you_mean(str(name), list(self))}"
            )
        _check_mapping(f"the condition of {name}", conditions, "{'optimizer': 'sgd'}")
        found = {}
        for parent, values in conditions.items():
            if parent not in self._parameters:
                raise UsageError(
                    f"{name} depends on {shown(parent)}, which is no parameter: the space has {', '.join(self)}"
                    f"{_did_you_mean(str(parent), list(self))}"
                )
            if isinstance(self[parent], Float):
                raise UsageError(
                    f"{name} depends on {parent}, a Float, which hardly ever has one given value: make a condition on "
                    "an Integer or a Categorical"
                )
            met = _values_of(self[parent], values)
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


def _check_mapping(what: str, given: object, example: str) -> None:
    """Refuse what has no names (UsageError)."""
    if not isinstance(given, Mapping):
        verb = "is" if what.startswith("the condition of") else "are"
        raise UsageError(f"{what} {verb} {_shown(given)}: give a mapping, such as {example}")


def _is_name(name: str) -> bool:
    """Tell whether a parameter can have this name: Python's, or LAYER_l2 of a layer inside of others, by its path."""
    # PyTorch numbers the layers of a Sequential, so that a part of a path may begin with a digit.
    path = name.endswith(_OF_LAYERS) and all(part and f"_{part}".isidentifier() for part in name.split("."))
    return name.isidentifier() or (path and name != _OF_LAYERS)


def _values_of(parent: Parameter, values: object) -> tuple[object, ...]:
    """Return the values that a condition names, of which it may name one by itself."""
    plain = _plain(values)
    single = plain is None or isinstance(plain, bool | int | float | str) or not isinstance(plain, Iterable)
    if single or (isinstance(parent, Categorical) and any(_same(choice, plain) for choice in parent.choices)):
        return (plain,)
    assert isinstance(plain, Iterable)
    if isinstance(plain, set | frozenset):
        # Its order differs between processes, and conditions belong to what a search is.
        return tuple(sorted(plain, key=lambda value: (len(repr(value)), repr(value))))
    return tuple(plain)


def _plain(value: object, depth: int = 0) -> Any:
    """Return a number of NumPy's or PyTorch's, an enumeration's value and the like as Python's own; else `value`.

    An array with dimensions is no number, not even where it holds a single one. Tuples too deep in others stay.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real | decimal.Decimal):
        return _double(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, tuple) and depth < _DEEPEST:
        return tuple(_plain(part, depth + 1) for part in value)
    return value


def _tupled(value: Any, depth: int = 0) -> Any:
    """Return lists as tuples, as deep as choices may be, and anything else as it is."""
    if isinstance(value, list | tuple) and depth < _DEEPEST:
        return tuple(_tupled(_plain(part), depth + 1) for part in value)
    return value


def _same(choice: object, value: object) -> bool:
    """Tell whether values are equal and of the same kinds: 1 is neither True nor 1.0."""
    if isinstance(choice, tuple) and isinstance(value, tuple):
        return len(choice) == len(value) and all(map(_same, choice, value))
    return type(choice) is type(value) and choice == value


def _check_choice(choice: object, depth: int = 0) -> None:
    """Refuse what cannot be kept as it is, or is not equal to itself (UsageError)."""
    if isinstance(choice, tuple):
        if depth == _DEEPEST:
            raise UsageError(f"a choice has tuples in tuples deeper than {_DEEPEST}: give one that people can read")
        for part in choice:
            _check_choice(part, depth + 1)
    elif isinstance(choice, list):
        raise UsageError(f"{shown(choice)} cannot be a choice: give a tuple, {shown(_tupled(choice))}")
    elif choice is not None and not isinstance(choice, bool | int | float | str):
        raise UsageError(
            f"{_shown(choice)} cannot be a choice: give texts, numbers, true, false or None, or tuples of these"
        )
    elif isinstance(choice, str):
        try:
            choice.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{choice!r} cannot be a choice: it is no text that can be written; give another"
            ) from None
    elif choice != choice:
        raise UsageError("nan cannot be a choice: it is not even equal to itself")
    elif choice is not None and not math.isfinite(_double(choice)):
        # Settings are kept as JSON, which has no infinite number, and numbers of so many digits do not come back.
        raise UsageError(f"{_double(choice)} cannot be a choice: give a finite number, None, or a text")


def _closely(choice: object, text: str) -> str:
    """Return a text that is the same for texts that may stand for the same choice."""
    return text.lower().replace(" ", "") if isinstance(choice, tuple) else text.lower()


def _shown(value: object) -> str:
    """Return a value for a sentence, on one line."""
    if getattr(value, "shape", ()) != ():
        return f"an array of shape {tuple(getattr(value, 'shape', ()))}"
    plain = _plain(value)
    text = shown(_printable(plain) if isinstance(plain, int | float) else plain)
    return text if len(text) < 100 else f"a {type(value).__name__}"


def _printable(number: float) -> float:
    """Return a number that is printed on a line; one of very many digits as a double."""
    return number if abs(number) < 10**50 else _double(number)


def _fields_of(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter's fields, without a step that is not given: older searches have none in their identity."""
    default = next((field.default for field in fields(parameter) if field.name == "step"), None)
    return {name: value for name, value in asdict(parameter).items() if name != "step" or value != default}


def _number_of(parameter: Float | Integer, field: str) -> Any:
    """Return an end or a step as a plain number (UsageError)."""
    number, kind = _plain(getattr(parameter, field)), type(parameter).__name__
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UsageError(f"the {field} of a parameter of kind {kind} is {_shown(number)}, which is no number")
    if isinstance(number, int) and not math.isfinite(_double(number)):
        # It has more digits than a sentence; Python may even refuse to print it.
        raise UsageError(f"the {field} of a parameter of kind {kind} is so large that it is no finite number")
    return number


def _check_log(parameter: Float | Integer) -> None:
    """Refuse what is not true or false: a third number is easily meant as a step (UsageError)."""
    log = _plain(parameter.log)
    if not isinstance(log, bool):
        raise UsageError(
            f"the log of a parameter of kind {type(parameter).__name__} is {_shown(log)}, which is neither True nor "
            "False; a step is given by name, step=…"
        )
    object.__setattr__(parameter, "log", log)


def _double(number: Any) -> float:
    """Return a number as a double; an infinite one where it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _decimal(number: float | None) -> decimal.Decimal:
    """Return a number as it is written, as Optuna takes it too where there is a step."""
    return decimal.Decimal(str(number))


def _is_rounded(number: float, end: float) -> bool:
    """Tell whether a number is this end but for rounding: that of a logarithm and back, or of 32 bits."""
    if not math.isclose(_double(number), end, rel_tol=1e-6):
        return abs(_double(number) - end) <= 4 * math.ulp(end)
    try:
        (short,) = struct.unpack("f", struct.pack("f", end))
    except OverflowError:
        short = end
    return number == short or abs(number - end) <= 4 * math.ulp(end)


def _check_range(parameter: Float | Integer, smallest_log: float) -> None:
    if not (math.isfinite(_double(parameter.low)) and math.isfinite(_double(parameter.high))):
        raise UsageError(f"{parameter} has an end that is no finite number")
    if parameter.low > parameter.high:
        raise UsageError(f"{parameter} is empty: low is above high")
    if parameter.log and (parameter.low <= 0 or parameter.low < smallest_log):
        raise UsageError(f"{parameter} has no logarithm at its low end: begin above zero")


def _outside(name: str, value: float, parameter: Float | Integer) -> UsageError:
    nearest = parameter.low if value < parameter.low else parameter.high
    return UsageError(
        f"{name} is {_printable(value)}, outside its range from {parameter.low} to {parameter.high}; "
        f"the nearest valid value is {nearest}"
    )


def _off_step(name: str, value: float, parameter: Float | Integer, nearest: float) -> UsageError:
    return UsageError(
        f"{name} is {value}, but it goes from {parameter.low} to {parameter.high} in steps of {parameter.step}; "
        f"the nearest valid value is {nearest}"
    )


def _did_you_mean(text: str, known: list[str]) -> str:
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
    return f"; the nearest is {close[0]}" if close else ""
