"""Which layers of a model can be accelerated, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from types import BuiltinFunctionType
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.nn.parameter import is_lazy

from stantune.errors import UsageError
from stantune.stan.layers.stand_in import taken_name

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
# What users may expect to be accelerated, so that it is reported where it is not.
KNOWN = (nn.modules.conv._ConvNd,)


def pytorchs(*functions: Callable[..., Any]) -> tuple[object, ...]:
    """Return functions as they are when STAN is imported; None for each that somebody had patched before.

    A wrapper may call itself what it wraps, and yet it has the names of where it was written.
    """
    return tuple(
        function
        if isinstance(function, BuiltinFunctionType)
        or getattr(function, "__globals__", {}).get("__name__", "").startswith("torch.")
        else None
        for function in functions
    )


# What PyTorch's own layers do. Tools replace it, in one layer or in all.
_DOES: dict[type[nn.Module], object] = {
    kind: pytorchs(kind.forward)[0]
    for kind in (
        nn.Conv1d,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Linear,
        nn.ReLU,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.Sequential,
    )
}
_CALL, _CALLED = pytorchs(nn.Module.__call__, nn.Module._call_impl)
_LINES_DO = pytorchs(nn.Conv1d.forward, nn.Conv1d._conv_forward, F.conv1d)
_PLANES_DO = pytorchs(nn.Conv2d.forward, nn.Conv2d._conv_forward, F.conv2d)
_FOLLOWING_DOES = pytorchs(F.relu, F.max_pool2d, F.avg_pool2d)


def as_written(layer: nn.Module) -> bool:
    """Tell whether a convolution's forward method, and all that it finds beneath it, is what PyTorch has there.

    Not so under a parametrization: each look at a parameter computes it once more, and spectral norms then move on.
    """
    if "_conv_forward" in layer.__dict__ or "parametrizations" in layer._modules:
        return False
    if isinstance(layer, nn.Conv1d):
        return (nn.Conv1d.forward, nn.Conv1d._conv_forward, F.conv1d) == _LINES_DO
    return (nn.Conv2d.forward, nn.Conv2d._conv_forward, F.conv2d) == _PLANES_DO


def class_as_written(kind: type[nn.Module]) -> bool:
    """Tell whether nobody has patched the forward method of one of PyTorch's classes."""
    return kind.forward is _DOES[kind]


def called_as_written(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a call of the module does what PyTorch's class `kind` does, but for hooks: nobody has patched it."""
    own = module.__dict__
    return (
        "forward" not in own
        and own.get("_compiled_call_impl") is None
        and class_as_written(kind)
        and kind.__call__ is _CALL
        and kind._call_impl is _CALLED
        and (F.relu, F.max_pool2d, F.avg_pool2d) == _FOLLOWING_DOES
    )


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model's convolutions of every kind by their first names ("" for the model itself), in its order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KNOWN)}


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the model's nn.Linear layers by their first names, in its order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def why_not(name: str, module: nn.Module, what: str, wanted: tuple[str, ...]) -> str:
    """Return why a layer cannot be accelerated, "" if it can.

    Args:
        name: the layer's.
        module: the layer.
        what: the setting that names the layers to accelerate.
        wanted: its shell patterns.
    """
    if not any(fnmatchcase(name, pattern) for pattern in wanted):
        return f"not among {what}={', '.join(wanted)}"
    kinds = (*CONVOLUTIONS, nn.Linear)
    if _depthwise(module) and not any(fnmatchcase(name, pattern) for pattern in wanted if pattern != "*"):
        return (
            "a depthwise convolution has so few products for each entry that the fill costs more than it saves; name "
            "it in layers= to reduce it all the same"
        )
    patched = type(module) is nn.Linear and not class_as_written(nn.Linear)
    patched = patched or (type(module) in CONVOLUTIONS and not as_written(module))
    if patched or "forward" in module.__dict__ or "_conv_forward" in module.__dict__:
        return "its forward method was replaced, and STAN does not know what the new one does; accelerate_ before that"
    if type(module) in kinds:
        name = taken_name(module)
        return f"its own attribute {name!r} has a name that STAN's layers need; rename it" if name else ""
    if has_no_weights_yet(module):
        return "it has no weights before its first input; call the model once on a batch, then accelerate_ it"
    kind = next((kind.__name__ for kind in kinds if isinstance(module, kind)), None)
    if kind is None:
        return f"{type(module).__name__} has no fast form; Conv1d and Conv2d have"
    return f"{type(module).__name__} is not nn.{kind} itself and may compute something else"


def has_no_weights_yet(module: nn.Module) -> bool:
    """Tell whether a module's own weights or buffers are made by its first input."""
    held = (*module._parameters.values(), *module._buffers.values())
    return any(is_lazy(each) for each in held if each is not None)


def _depthwise(module: nn.Module) -> bool:
    """Tell whether a convolution takes each channel by itself (and there are several)."""
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels > 1


def check_names(what: str, patterns: tuple[str, ...], names: list[str], kind: str) -> None:
    """Raise UsageError where one of the shell patterns of the setting `what` matches none of the layers' names."""
    for pattern in patterns:
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"{what}={pattern!r} matches no {kind} of the model; it has {', '.join(names) or 'none'}")
