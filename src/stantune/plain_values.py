"""Values of parameters as Python's own, when they are the same, and how sentences show them."""

from __future__ import annotations

import decimal
import math
import numbers
from typing import Any, TypeAlias

from stantune.arguments import shown

# So deep may tuples be in one another; Python itself ends at some hundred.
DEEPEST = 20
# A tuple holds choices, tuples among them.
Choice: TypeAlias = "bool | int | float | str | tuple[Any, ...] | None"


def plain_value(value: object, depth: int = 0) -> Any:
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
        return as_double(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, tuple) and depth < DEEPEST:
        return tuple(plain_value(part, depth + 1) for part in value)
    return value


def tupled(value: Any, depth: int = 0) -> Any:
    """Return lists as tuples, as deep as choices may be, and anything else as it is."""
    if isinstance(value, list | tuple) and depth < DEEPEST:
        return tuple(tupled(plain_value(part), depth + 1) for part in value)
    return value


def same_value(choice: object, value: object) -> bool:
    """Tell whether values are equal and of the same kinds: 1 is neither True nor 1.0."""
    if isinstance(choice, tuple) and isinstance(value, tuple):
        return len(choice) == len(value) and all(map(same_value, choice, value))
    return type(choice) is type(value) and choice == value


def shown_value(value: object) -> str:
    """Return a value for a sentence, on one line."""
    if getattr(value, "shape", ()) != ():
        return f"an array of shape {tuple(getattr(value, 'shape', ()))}"
    plain = plain_value(value)
    text = shown(shown_number(plain) if isinstance(plain, int | float) else plain)
    return text if len(text) < 100 else f"a {type(value).__name__}"


def shown_number(number: float) -> float:
    """Return a number that is printed on a line; one of very many digits as a double."""
    return number if abs(number) < 10**50 else as_double(number)


def as_double(number: Any) -> float:
    """Return a number as a double; an infinite one where it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
