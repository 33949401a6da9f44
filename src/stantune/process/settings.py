"""What PyTorch is set to for a whole process, which trainings depend on: told, put in place, and noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from stantune.process.float32 import FLOAT32, float32_numbers, put_float32
from stantune.process.runtime import flush_denormals, flushes_denormals


class _Setting(NamedTuple):
    """One of PyTorch's settings.

    Attributes:
        tell: returns it as a plain value.
        put: puts one in place.
        usual: what it is where nobody has set anything.
        noted: whether results depend on it: not on what only finds mistakes.
    """

    tell: Callable[[], Any]
    put: Callable[[Any], object]
    usual: Any
    noted: bool = True


def _put_device(name: str) -> None:
    # "cpu" would be a mode of its own, and slow.
    torch.set_default_device(None if name == "cpu" else name)


def _attribute(place: Any, name: str, usual: Any) -> _Setting:
    return _Setting(lambda: getattr(place, name), lambda value: setattr(place, name, value), usual)


_SETTINGS: dict[str, _Setting] = {
    "default-dtype": _Setting(
        lambda: str(torch.get_default_dtype()).removeprefix("torch."),
        lambda name: torch.set_default_dtype(getattr(torch, name)),
        "float32",
    ),
    "default-device": _Setting(lambda: str(torch.get_default_device()), _put_device, "cpu"),
    "flush-denormal": _Setting(flushes_denormals, flush_denormals, False),
    "deterministic": _Setting(
        lambda: [torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()],
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
        [False, False],
    ),
    "fill-uninitialized": _attribute(torch.utils.deterministic, "fill_uninitialized_memory", True),
    "cudnn-deterministic": _attribute(torch.backends.cudnn, "deterministic", False),
    "cudnn-benchmark": _attribute(torch.backends.cudnn, "benchmark", False),
    "cudnn-enabled": _attribute(torch.backends.cudnn, "enabled", True),
    "gradients": _Setting(torch.is_grad_enabled, torch.set_grad_enabled, True, noted=False),
    "anomalies": _Setting(
        lambda: [torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()],
        lambda both: torch.autograd.set_detect_anomaly(*both),
        [False, True],
        noted=False,
    ),
}


# What each thread has its own of.
OF_A_THREAD = ("default-device", "flush-denormal", "gradients")


def settings_now() -> dict[str, Any]:
    """Return all of PyTorch's settings as they are, as plain values."""
    return {name: setting.tell() for name, setting in _SETTINGS.items()} | float32_numbers()


def put_settings(settings: Mapping[str, Any]) -> None:
    """Put settings in place that `settings_now` or `unusual_settings` has told; what is as it says is not touched."""
    for name, setting in _SETTINGS.items():
        if name in settings and setting.tell() != settings[name]:
            setting.put(settings[name])
    put_float32(settings)


def unusual_settings() -> dict[str, Any]:
    """Return those that are not as in a process in which nobody has set anything.

    Where one of float32's is not, all of them: putting one in place changes others.
    """
    numbers = float32_numbers()
    if all(map(_is_usual, numbers, numbers.values())):
        numbers = {}
    return {name: value for name, value in settings_now().items() if name in numbers or not _is_usual(name, value)}


def noted_settings(unusual: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return those that results on a device depend on."""
    without = () if device.startswith("cuda") else ("cudnn", "cuda")
    return {
        name: value
        for name, value in unusual.items()
        if not _is_usual(name, value)
        and not name.startswith(without)
        and (name not in _SETTINGS or _SETTINGS[name].noted)
    }


def _is_usual(name: str, value: Any) -> bool:
    if name in _SETTINGS:
        return bool(value == _SETTINGS[name].usual)
    # PyTorch does not tell by the old names what was set by the new ones, which tell it then.
    return value is None or value in FLOAT32[name]
