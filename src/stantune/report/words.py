"""Numbers as people read and type them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(error: float | None) -> str:
    """Return an error in percent; a dash for None."""
    return "–" if error is None else f"{error:.2f} %"


def setting_text(setting: Mapping[str, Any]) -> str:
    """Return a setting on one line."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in setting.items()) or "the problem's own values"


def value_text(value: Any) -> str:
    """Return one value of a setting."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
