"""The parameters of a search space, each with its range and scale: they check and parse their values."""

from __future__ import annotations

import decimal
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from stantune.arguments import did_you_mean, shown, typed_number
from stantune.errors import UsageError
from stantune.plain_values import DEEPEST, Choice, as_double, plain_value, same_value, shown_number, shown_value, tupled

# Optuna keeps every number as a double, which holds integers exactly up to here.
_LARGEST_INTEGER = 2**53
# A value counts as a multiple of a step where it is off by less than this share of one, as in Optuna.
_OFF_STEP = 1e-8
# Doubles must tell the multiples of a step apart so much better than that.
_FINEST_STEP = 1e-9
_DECIMALS = decimal.Context(prec=50)


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
            number, double = _number_of(self, end), as_double(_number_of(self, end))
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
        number = plain_value(value)
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
            raise UsageError(f"{name} is {shown_value(value)}, but it is a number from {self.low:g} to {self.high:g}")
        if not self.low <= number <= self.high:
            end = self.low if number < self.low else self.high
            off = abs(as_double(number) - end)
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
        number = plain_value(value)
        if isinstance(number, bool) or not isinstance(number, int):
            nearest = ""
            if isinstance(number, float) and math.isfinite(number):
                nearest = f"; the nearest valid value is {self._multiple(number)}"
            raise UsageError(
                f"{name} is {shown_value(value)}, but it is a whole number from {self.low} to {self.high}{nearest}"
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
            raise UsageError(f"the choices are {shown_value(given)}: give a list or a tuple of choices")
        try:
            choices = tuple(plain_value(choice) for choice in given)
        except TypeError:  # an array of no dimension
            raise UsageError(f"the choices are {shown_value(given)}: give a list or a tuple of choices") from None
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
        plain = tupled(plain_value(value))
        for choice in self.choices:
            if same_value(choice, plain):
                return choice
        raise self._unknown(name, plain if isinstance(plain, str) else shown_value(value))

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
        return UsageError(f"{name} is {shown(text)}, but it is one of {', '.join(known)}{did_you_mean(text, known)}")


Parameter: TypeAlias = "Float | Integer | Categorical"


def _check_choice(choice: object, depth: int = 0) -> None:
    """Refuse what cannot be kept as it is, or is not equal to itself (UsageError)."""
    if isinstance(choice, tuple):
        if depth == DEEPEST:
            raise UsageError(f"a choice has tuples in tuples deeper than {DEEPEST}: give one that people can read")
        for part in choice:
            _check_choice(part, depth + 1)
    elif isinstance(choice, list):
        raise UsageError(f"{shown(choice)} cannot be a choice: give a tuple, {shown(tupled(choice))}")
    elif choice is not None and not isinstance(choice, bool | int | float | str):
        raise UsageError(
            f"{shown_value(choice)} cannot be a choice: give texts, numbers, true, false or None, or tuples of these"
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
    elif choice is not None and not math.isfinite(as_double(choice)):
        # Settings are kept as JSON, which has no infinite number, and numbers of so many digits do not come back.
        raise UsageError(f"{as_double(choice)} cannot be a choice: give a finite number, None, or a text")


def _closely(choice: object, text: str) -> str:
    """Return a text that is the same for texts that may stand for the same choice."""
    return text.lower().replace(" ", "") if isinstance(choice, tuple) else text.lower()


def fields_of(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter's fields, without a step that is not given: older searches have none in their identity."""
    default = next((field.default for field in fields(parameter) if field.name == "step"), None)
    return {name: value for name, value in asdict(parameter).items() if name != "step" or value != default}


def _number_of(parameter: Float | Integer, field: str) -> Any:
    """Return an end or a step as a plain number (UsageError)."""
    number, kind = plain_value(getattr(parameter, field)), type(parameter).__name__
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UsageError(f"the {field} of a parameter of kind {kind} is {shown_value(number)}, which is no number")
    if isinstance(number, int) and not math.isfinite(as_double(number)):
        # It has more digits than a sentence; Python may even refuse to print it.
        raise UsageError(f"the {field} of a parameter of kind {kind} is so large that it is no finite number")
    return number


def _check_log(parameter: Float | Integer) -> None:
    """Refuse what is not true or false: a third number is easily meant as a step (UsageError)."""
    log = plain_value(parameter.log)
    if not isinstance(log, bool):
        raise UsageError(
            f"the log of a parameter of kind {type(parameter).__name__} is {shown_value(log)}, which is neither True "
            "nor False; a step is given by name, step=…"
        )
    object.__setattr__(parameter, "log", log)


def _decimal(number: float | None) -> decimal.Decimal:
    """Return a number as it is written, as Optuna takes it too where there is a step."""
    return decimal.Decimal(str(number))


def _is_rounded(number: float, end: float) -> bool:
    """Tell whether a number is this end but for rounding: that of a logarithm and back, or of 32 bits."""
    if not math.isclose(as_double(number), end, rel_tol=1e-6):
        return abs(as_double(number) - end) <= 4 * math.ulp(end)
    try:
        (short,) = struct.unpack("f", struct.pack("f", end))
    except OverflowError:
        short = end
    return number == short or abs(number - end) <= 4 * math.ulp(end)


def _check_range(parameter: Float | Integer, smallest_log: float) -> None:
    if not (math.isfinite(as_double(parameter.low)) and math.isfinite(as_double(parameter.high))):
        raise UsageError(f"{parameter} has an end that is no finite number")
    if parameter.low > parameter.high:
        raise UsageError(f"{parameter} is empty: low is above high")
    if parameter.log and (parameter.low <= 0 or parameter.low < smallest_log):
        raise UsageError(f"{parameter} has no logarithm at its low end: begin above zero")


def _outside(name: str, value: float, parameter: Float | Integer) -> UsageError:
    nearest = parameter.low if value < parameter.low else parameter.high
    return UsageError(
        f"{name} is {shown_number(value)}, outside its range from {parameter.low} to {parameter.high}; "
        f"the nearest valid value is {nearest}"
    )


def _off_step(name: str, value: float, parameter: Float | Integer, nearest: float) -> UsageError:
    return UsageError(
        f"{name} is {value}, but it goes from {parameter.low} to {parameter.high} in steps of {parameter.step}; "
        f"the nearest valid value is {nearest}"
    )
