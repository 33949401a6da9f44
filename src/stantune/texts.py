"""Texts of whatever origin made such that JSON, every database and every terminal can have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What is longer says no more, and some databases hold no more.
_LONGEST = 2000
_BRIEF = 200


def encodable(text: str) -> str:
    """Return a text with an escape, \\\\udcff, for what UTF-8 or a database has not: lone surrogates and NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode(errors="backslashreplace").decode()
    return text.replace("\0", "\\x00")


def printable(text: str) -> str:
    """Return a text with an escape, \\\\x1b, for what a terminal would not print but obey, an end of a line too."""
    # Spaces that are not broken hold a number and its unit together.
    return "".join(one if one.isprintable() or one == "\N{NO-BREAK SPACE}" else ascii(one)[1:-1] for one in text)


def one_line(text: str) -> str:
    """Return a text of any length on a line: what a terminal would not print is escaped, what is too much is cut."""
    line = " ".join(text[: 2 * _LONGEST].split())
    shown = printable(line)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def brief(value: object) -> str:
    """Return a value as a sentence may name it beside others: its text on a line, cut where it is long."""
    line = one_line(str(value))
    return line if len(line) <= _BRIEF else f"{line[:_BRIEF]}…"


def plain(value: Any) -> Any:
    """Return a value with all texts in it encodable, keys of mappings too."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value
