"""Which layers of a model can be accelerated, and why the others cannot."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from stantune.errors import UsageError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
# What users may expect to be accelerated, so that it is reported where it is not.
KNOWN = (nn.modules.conv._ConvNd,)


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model's convolutions of every kind by their first names ("" for the model itself), in its order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KNOWN)}


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the model's nn.Linear layers by their first names, in its order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def why_not(name: str, module: nn.Module, wanted: tuple[str, ...]) -> str:
    """Return why a layer cannot be accelerated, "" if it can.

    Args:
        name: the layer's.
        module: the layer.
        wanted: shell patterns of the names that the user wants accelerated.
    """
    if not any(fnmatchcase(name, pattern) for pattern in wanted):
        return f"not among layers={', '.join(wanted)}"
    kinds = (*CONVOLUTIONS, nn.Linear)
    if type(module) in kinds:
        return ""
    kind = next((kind.__name__ for kind in kinds if isinstance(module, kind)), None)
    if kind is None:
        return f"{type(module).__name__} has no fast form; Conv1d and Conv2d have"
    return f"{type(module).__name__} is not nn.{kind} itself and may compute something else"


def check_names(what: str, patterns: tuple[str, ...], names: list[str], kind: str) -> None:
    """Raise UsageError where one of the shell patterns of the setting `what` matches none of the layers' names."""
    for pattern in patterns:
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"{what}={pattern!r} matches no {kind} of the model; it has {', '.join(names) or 'none'}")
