"""Numbers as people read and type them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


def percent(error: float | None) -> str:
    """Return an error in percent; a dash for None."""
    return "–" if error is None else f"{error:.2f} %"


def setting_text(setting: Mapping[str, Any]) -> str:
    """Return a setting on one line."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in setting.items()) or "the problem's own values"


def value_text(value: Any) -> str:
    """Return one value of a setting."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
