"""Times and sizes as people type and read them."""

from __future__ import annotations

import re

from stantune.arguments import shown
from stantune.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_NUMBER = r"[0-9]{1,20}(?:\.[0-9]{1,20})?"


def duration(seconds: float | None) -> str:
    """Return a time such as 0.4 s, 38 s, 2 min 05 s or 3 h 20 min; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def parse_duration(text: str) -> float:
    """Return the seconds of a time such as 90, 45s, 30m, 2h or 1h30m.

    Raises:
        UsageError: it is none.
    """
    # Only a number that stands alone may go without its unit: the 30 of 1h30 would be seconds to us, minutes to many.
    if not re.fullmatch(rf"\s*({_NUMBER}|(?:{_NUMBER}[smhd])+)\s*", text):
        raise UsageError(f"{shown(text)} is no length of time; write it as 90s, 30m, 2h or 1h30m")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in re.findall(rf"({_NUMBER})([smhd]?)", text))


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as 800M, 2G or 1.5GB, in powers of ten.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(rf"\s*({_NUMBER})\s*([kmgt]?)b?\s*", text, re.IGNORECASE)
    if not found:
        raise UsageError(f"{shown(text)} is no amount of memory; write it as 800M, 2G or 1.5GB")
    return round(float(found[1]) * _SIZES[found[2].lower()])
