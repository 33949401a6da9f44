"""Arguments as they are given, turned into what they are for, or refused in a sentence that names them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path

from stantune.errors import UsageError


def whole(parameter: str, value: object, least: int | None = None) -> int:
    """Return a whole number as Python's own, NumPy's and 9.0 as well; raises UsageError where it is none, or less."""
    number: int | None = None
    if not isinstance(value, bool):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            number = int(value) if isinstance(value, float) and value.is_integer() else None
    if number is None:
        raise UsageError(f"`{parameter}`={value!r} is no whole number; give one" + _at_least(least))
    if least is not None and number < least:
        raise UsageError(f"`{parameter}`={number} is too small; give {least} or more")
    return number


def amount(parameter: str, value: object, parse: Callable[[str], float]) -> float:
    """Return an amount given as a number or a text such as "30m"; raises UsageError unless it is finite and above 0."""
    if isinstance(value, str):
        try:
            value = parse(value)
        except UsageError as error:
            raise UsageError(f"`{parameter}`: {error}") from None
    try:
        number = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise UsageError(f"`{parameter}`={value!r} is no amount; give a finite number above 0, or a text")
    return number


def text(parameter: str, value: object) -> str:
    """Return a text; raises UsageError where it is none, or empty."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"`{parameter}`={value!r} is no text; give one in quotes that is not empty")
    return value


def path(parameter: str, value: object) -> Path:
    """Return a path; raises UsageError where it is none, or empty, which would be the current folder."""
    if not isinstance(value, str | PathLike) or not isinstance(fspath(value), str) or not fspath(value):
        raise UsageError(f"`{parameter}`={value!r} is no path; name a directory")
    return Path(fspath(value))


def _at_least(least: int | None) -> str:
    return "" if least is None else f", {least} or more"
