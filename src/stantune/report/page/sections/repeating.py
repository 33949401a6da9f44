"""How to repeat a search: the call, with what is not as it is by default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from stantune.search.settings import SearchSettings
from stantune.search.table.directory import SearchDirectory

_STAN = ("rate", "period", "pretrain", "tail", "pattern", "tolerance", "layers", "memo", "meprop")
# Of those that are objects themselves: their class, and where it is.
_PARTS = {"memo": ("Memo", "stantune.stan.config"), "meprop": ("MeProp", "stantune.stan.layers.meprop")}
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
    "finalists": 1,
    "final": "scratch",
    "final_resource": None,
    "device": "cpu",
}


def call_of(settings: SearchSettings, identity: Mapping[str, Any], directory: Path) -> str:
    """Return the call of `tune`, with its imports; what was searched is in it by its name, unless it is built in.

    And the command, where it was one.
    """
    given: dict[str, Any] = {"max_resource": settings.max_resource, "min_resource": settings.min_resource}
    for name, default in _DEFAULTS.items():
        value = getattr(settings, "plan_name" if name == "plan" else name)
        if isinstance(value, list | tuple | dict):
            value = type(default)(value)
        if value != default:
            given[name] = value if isinstance(value, str | int | tuple | dict) else _Name(getattr(value, "name", ""))
    if settings.start is not None:
        given["start_from"] = _Name(settings.start.label)
    imports = ["from stantune import tune"]
    if identity.get("accelerate") not in (None, "none") and (stan := _stan(settings, identity)):
        fields = ", ".join(f"{name}={value!r}" for name, value in stan.items())
        given["stan"] = _Name(f"Stan({fields})")
        imports = ["from stantune import Stan, tune"]
        imports += [f"from {home} import {kind}" for part, (kind, home) in _PARTS.items() if part in stan]
    given |= {"seed": settings.seed, "threads": settings.threads, "out": str(directory)}
    what = identity.get("problem")
    if _of_images(identity) and "made-of" not in identity:
        what = f"find({what!r})"
        imports.append("from stantune.images.problem.built_in import find")
    call = f"tune({what}, {', '.join(f'{name}={value!r}' for name, value in given.items())})"
    options = SearchDirectory(directory).options
    typed = ["", "# or, as it was typed last:", f"# stantune search --config {quote(str(options))}"]
    return "\n".join([*imports, "", call, *(typed if options.is_file() else ())])


def _of_images(identity: Mapping[str, Any]) -> bool:
    return "pattern" in identity and "batch-size" in identity


def _stan(settings: SearchSettings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of STAN's settings that were given."""
    fields = dict(identity.get("stan") or {name: identity.get(name) for name in _STAN})
    if isinstance(identity.get("plan"), Mapping):
        # The planner's: with a new table it decides anew, with this one the plan is that of before.
        fields |= {"rate": "auto", "period": None}
    for part, (kind, _) in _PARTS.items():
        if (inner := fields.get(part)) is not None:
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in inner.items()}
            fields[part] = _Name(f"{kind}({', '.join(f'{name}={value!r}' for name, value in given.items())})")
    if fields.get("layers") is not None:
        fields["layers"] = tuple(fields["layers"])
    if fields.get("tail"):
        fields["iterations"] = settings.max_resource
    return {name: value for name, value in fields.items() if value is not None and name != "plan"}


class _Name:
    """Something of the user's own, or not a plain value: said by its name."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
