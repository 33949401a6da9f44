"""Numbers as people read and type them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stantune.search.results.contract import Leader


def percent(error: float | None) -> str:
    """Return an error in percent; a dash for None."""
    return "–" if error is None else f"{error:.2f} %"


def by_parts(leaders: Sequence[Leader]) -> list[str]:
    """Return by how much of the validation set each was measured; nothing where all were by all of it."""
    if all(leader.validation_share == 1 for leader in leaders):
        return []
    return [
        "all" if leader.validation_share == 1 else f"{leader.validation_share:.0%}".replace("%", " %")
        for leader in leaders
    ]


def setting_text(setting: Mapping[str, Any]) -> str:
    """Return a setting on one line."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in setting.items()) or "the problem's own values"


def value_text(value: Any) -> str:
    """Return one value of a setting."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
