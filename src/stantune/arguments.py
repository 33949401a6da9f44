"""Arguments as they are given, turned into what they are for, or refused in a sentence that names them."""

from __future__ import annotations

import difflib
import errno
import inspect
import math
import operator
import re
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path

from stantune.errors import UsageError

# The largest number that a trial table holds; nothing that is counted comes near it.
MOST = 2**63 - 1
# Of a seed, which only begins other numbers: what random generators give as one has 128 bits, and some have more.
MOST_SEED = 2**512
# So many threads, trainings or rungs are somebody's slip; a process that had them would end.
MOST_AT_ONCE = 4096
_DECIMAL = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE)
_SHOWN = 100
# Of a text that is a name, a word or an address.
_LONGEST = 2000


def digits(text: str) -> int | None:
    """Return the number that a text of the digits 0 to 9 is; None for any other, and for one beyond MOST."""
    # Python's own tells of a text whether it is one of digits like ², and refuses to read one of some thousand.
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > len(str(MOST)):
        return None
    number = int(text.lstrip("0") or "0")
    return number if number <= MOST else None


def typed_number(text: str) -> float | None:
    """Return the number that a text is, as people write them, inf and nan too; None for any other text.

    Python reads 1_0 as ten, and digits of all scripts.
    """
    return float(text) if _DECIMAL.fullmatch(text.strip()) else None


def shown(value: object) -> str:
    """Return any value as a sentence may show it: on one line, not long, and by its kind where it has no words."""
    try:
        words = repr(value)
    except Exception:
        # Too deep, of too many digits, or its own method fails.
        return f"a {type(value).__name__}"
    words = "".join(letter if letter.isprintable() else " " for letter in words)
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"


def did_you_mean(text: str, known: list[str]) -> str:
    """Return the end of a sentence on an unknown word: the nearest of the known ones, or nothing where none is near."""
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
    return f"; the nearest is {close[0]}" if close else ""


def whole(parameter: str, value: object, least: int | None = None, most: int = MOST) -> int:
    """Return a whole number as Python's own, NumPy's and 9.0 as well.

    Raises:
        UsageError: it is none, or less than `least`, or more than `most`.
    """
    number: int | None = None
    if not isinstance(value, bool):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except Exception:  # of no number, and a tensor or an object of the user's own may raise anything
            number = int(value) if isinstance(value, float) and value.is_integer() else None
    if number is None:
        raise UsageError(f"`{parameter}`={shown(value)} is no whole number; give one" + _at_least(least))
    if least is not None and number < least:
        raise UsageError(f"`{parameter}`={shown(number)} is too small; give {least} or more")
    if not -most <= number <= most:
        size = "large" if number > 0 else "small"
        raise UsageError(f"`{parameter}`={shown(number)} is too {size}; give a number of fewer digits")
    return number


def amount(parameter: str, value: object, parse: Callable[[str], float]) -> float:
    """Return an amount given as a number or a text such as "30m"; raises UsageError unless it is finite and above 0."""
    if isinstance(value, str):
        try:
            value = parse(value)
        except UsageError as error:
            raise UsageError(f"`{parameter}`: {error}") from None
    number = _double(value)
    if not math.isfinite(number) or not 0 < number <= MOST:
        raise UsageError(f"`{parameter}`={shown(value)} is no amount; give a finite number above 0, or a text")
    return number


def number(parameter: str, value: object) -> float:
    """Return a finite number, NumPy's as Python's own, a whole one as it is; raises UsageError where it is none."""
    double = _double(value)
    if not math.isfinite(double):
        raise UsageError(f"`{parameter}`={shown(value)} is no finite number; give one")
    return value if type(value) is int else double


def text(parameter: str, value: object) -> str:
    """Return a text; raises UsageError where it is none, or empty."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"`{parameter}`={shown(value)} is no text; give one in quotes that is not empty")
    if len(value) > _LONGEST:
        raise UsageError(f"`{parameter}`={shown(value)} is too long a text; give one of at most {_LONGEST} letters")
    return value


def names(parameter: str, value: object) -> tuple[str, ...]:
    """Return names as a tuple; raises UsageError where they are one text, or something else."""
    if not isinstance(value, tuple | list) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"`{parameter}`={shown(value)} is no tuple of names; give one, such as ('conv*',)")
    return tuple(value)


def one_of(parameter: str, value: object, words: Sequence[str]) -> str:
    """Return one of these words; raises UsageError where it is none."""
    if not isinstance(value, str) or value not in words:
        raise UsageError(f"`{parameter}`={shown(value)} is unknown; give {' or '.join(words)}")
    return value


def truth(parameter: str, value: object) -> bool:
    """Return True or False; raises UsageError for anything else: texts such as "0" and "False" would count as true."""
    if not isinstance(value, bool):
        raise UsageError(f"`{parameter}`={shown(value)} is neither True nor False; give one of them")
    return value


def function(parameter: str, value: object, takes: Sequence[str] = (), **named: object) -> None:
    """Raise UsageError unless a value can be called with so much.

    Args:
        parameter: its name.
        value: what is to be a function.
        takes: what it is called with, in this order.
        **named: what it is called with by name.
    """
    if not callable(value):
        raise UsageError(f"`{parameter}`={shown(value)} is no function; give one" + _of(takes))
    try:
        inspect.signature(value).bind(*takes, **named)
    except TypeError:
        raise UsageError(
            f"`{parameter}`={shown(value)} cannot be called as it is; give a function" + _of(takes)
        ) from None
    except ValueError:  # of some functions and classes in C nobody knows the parameters
        pass


def path(parameter: str, value: object) -> Path:
    """Return a path, ~ as the home folder; raises UsageError where it is none, or empty: that is the current folder."""
    if not isinstance(value, str | PathLike) or not isinstance(fspath(value), str) or not fspath(value):
        raise UsageError(f"`{parameter}`={shown(value)} is no path; name a directory")
    try:
        found = Path(fspath(value)).expanduser()
    except RuntimeError:
        raise UsageError(
            f"`{parameter}`={shown(value)} begins with the name of nobody here; give the whole path"
        ) from None
    try:
        found.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"`{parameter}`={shown(value)} is too long a name; give a shorter one") from None
    except ValueError:  # a NUL, or half of a character
        raise UsageError(f"`{parameter}`={shown(value)} is no name that a file can have; give another") from None
    return found


def _double(value: object) -> float:
    """Return a number as a double, nan where it is none: a text is none, and neither is a truth value."""
    if isinstance(value, bool | str | bytes):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except Exception:  # an object of the user's own may raise anything
        return math.nan


def _at_least(least: int | None) -> str:
    return "" if least is None else f", {least} or more"


def _of(takes: Sequence[str]) -> str:
    return f" of ({', '.join(takes)})" if takes else " that takes nothing"
