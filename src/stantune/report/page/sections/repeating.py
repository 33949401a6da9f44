"""How to repeat a search: the call, with what is not as it is by default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from stantune.search.directory.directory import SearchDirectory
from stantune.search.settings import SearchSettings

# STAN's fields and what they are by default: the class itself comes with PyTorch, which a page does without.
_STAN: dict[str, Any] = {
    "rate": 0.5,
    "period": 1,
    "pretrain": 0,
    "tail": 0,
    "iterations": None,
    "pattern": "auto",
    "tolerance": None,
    "layers": ("*",),
    "memo": None,
    "linear": (),
    "meprop": None,
    "offset_sets": None,
    "native": True,
}
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
    if identity.get("accelerate") not in (None, "none"):
        stan = _stan(settings, identity)
        given["stan"] = _Name(f"Stan({_listed(stan)})")
        imports = ["from stantune import Stan, tune"]
        imports += [f"from {home} import {kind}" for part, (kind, home) in _PARTS.items() if part in stan]
    elif _of_images(identity):
        given["stan"] = None
    given |= {name: identity[name] for name in ("precision", "compile", "resize") if name in identity}
    given |= {"seed": settings.seed, "threads": settings.threads, "out": str(directory)}
    what = identity.get("problem")
    if _of_images(identity) and "made-of" not in identity:
        what = f"find({what!r})"
        imports.append("from stantune.images.problem.built_in import find")
    call = f"tune({what}, {_listed(given)})"
    options = SearchDirectory(directory).options
    typed = ["", "# or, as it was typed last:", f"# stantune search --config {quote(str(options))}"]
    return "\n".join([*imports, "", call, *(typed if options.is_file() else ())])


def _of_images(identity: Mapping[str, Any]) -> bool:
    return "pattern" in identity and "batch-size" in identity


def _stan(settings: SearchSettings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of STAN's settings that are not as they are by default; the rate is always said."""
    noted = {**identity, **(identity.get("stan") or {})}
    fields = {name: noted.get(name, default) for name, default in _STAN.items()}
    if "stan" not in identity:
        # There it is the problem's own number. A run's is noted where it has an end of its own, and once was not.
        fields["iterations"] = noted.get("stan-iterations", settings.max_resource) if fields["tail"] else None
    for name in ("layers", "linear"):
        fields[name] = tuple(fields[name])
    if noted.get("rates"):
        fields["rate"] = tuple((start, rate) for start, rate in noted["rates"])
    if isinstance(plan := noted.get("plan"), Mapping):
        # The planner's: with a new table it decides anew, with this one the plan is that of before.
        fields |= {"rate": "auto", "period": _STAN["period"]}
        if not plan:
            fields["native"] = True
    if fields["meprop"] is not None:
        # Before it was a choice, it was always so.
        fields["meprop"] = {"sparse_bias": True, **fields["meprop"]}
    for part, (kind, _) in _PARTS.items():
        if (inner := fields[part]) is not None:
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in inner.items()}
            fields[part] = _Name(f"{kind}({_listed(given)})")
    if settings.rates:
        del fields["rate"]
    return {name: value for name, value in fields.items() if name == "rate" or value != _STAN[name]}


def _listed(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


class _Name:
    """Something of the user's own, or not a plain value: said by its name."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
