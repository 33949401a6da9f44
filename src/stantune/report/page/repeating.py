"""How to repeat a search: the call, with what is not as it is by default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stantune.search.settings import SearchSettings

_STAN = ("rate", "period", "pretrain", "tail", "pattern", "tolerance", "layers")
_DEFAULTS: dict[str, Any] = {
    "eta": 3,
    "plan": "hyperband",
    "brackets": None,
    "variant": "algorithm1",
    "mode": "sync",
    "trials": None,
    "sampler": "random",
    "lag": 16,
    "rates": (),
    "validation": "all",
    "enqueue": (),
    "fixed": {},
    "device": "cpu",
}


def call_of(settings: SearchSettings, identity: Mapping[str, Any], directory: Path) -> str:
    """Return the call of `tune`; what was searched is in it by its name alone."""
    given: dict[str, Any] = {"max_resource": settings.max_resource, "min_resource": settings.min_resource}
    for name, default in _DEFAULTS.items():
        value = getattr(settings, "plan_name" if name == "plan" else name)
        if isinstance(value, list | tuple | dict):
            value = type(default)(value)
        if value != default:
            given[name] = value if isinstance(value, str | int | tuple | dict) else _Name(getattr(value, "name", ""))
    if settings.start is not None:
        given["start_from"] = _Name(settings.start.label)
    stan = identity.get("stan") or {name: identity.get(name) for name in _STAN}
    if identity.get("accelerate") not in (None, "none") and stan:
        fields = ", ".join(f"{name}={value!r}" for name, value in stan.items() if value is not None)
        given["stan"] = _Name(f"Stan({fields})")
    given |= {"seed": settings.seed, "threads": settings.threads, "out": str(directory)}
    return f"tune({identity.get('problem')}, {', '.join(f'{name}={value!r}' for name, value in given.items())})"


class _Name:
    """Something of the user's own, or not a plain value: said by its name."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
