"""Values that a checkpoint can hold: what is read back by `weights_only=True`, which executes nothing."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stantune.errors import UsageError

# As they are.
PLAIN = {type(None), bool, int, float, complex, str, bytes}
_TORCH = {Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device}
# The key of a dict that stands for what torch.load would refuse: an array, a scalar of NumPy's, …
_KIND = "stantune kind"


def plain(value: Any, where: str) -> Any:
    """Return a value in kinds that a checkpoint can hold; `restored` takes it back.

    Args:
        value: tensors, arrays, numbers, texts, and lists, tuples, sets and dicts of them.
        where: what it is, for the message.

    Raises:
        UsageError: there is something else in it.
    """
    kind = type(value)
    if isinstance(value, Tensor) and kind in _TORCH and value.device.type not in ("cpu", "meta"):
        return {_KIND: "elsewhere", "value": value}
    if kind in PLAIN or kind in _TORCH:
        return value
    if kind in (list, tuple):
        return kind(plain(each, f"{where}[{place}]") for place, each in enumerate(value))
    if kind is set:
        elements = [plain(each, where) for each in value]
        return set(elements) if _hashable(elements) else {_KIND: "set", "value": elements}
    if kind in (dict, OrderedDict):
        keys = [plain(key, f"a key of {where}") for key in value]
        values = [plain(each, f"{where}[{key!r}]") for key, each in value.items()]
        if not _hashable(keys):
            return {_KIND: "keys", "keys": keys, "value": kind(enumerate(values))}
        made = kind(zip(keys, values, strict=True))
        if _KIND in made:
            raise UsageError(f"{where} has the key {_KIND!r}, which checkpoints need themselves; rename it")
        if hasattr(value, "_metadata"):
            # Versions of a state_dict's modules.
            vars(made)["_metadata"] = value._metadata
        return made
    if kind is Counter:
        return {_KIND: "counter", "value": plain(dict(value), where)}
    if isinstance(value, np.ndarray | np.generic) and kind in (np.ndarray, value.dtype.type):
        try:
            # A copy: it may be read-only, or backwards.
            tensor = torch.from_numpy(np.array(value, order="C"))
        except TypeError:
            raise _refusal(value, where, f"array of {value.dtype}") from None
        return {_KIND: "array" if kind is np.ndarray else "scalar", "value": tensor}
    raise _refusal(value, where, kind.__name__)


def restored(value: Any, device: str = "cpu") -> Any:
    """Return what `plain` was given; tensors that were not on the CPU are put on `device`."""
    kind = type(value)
    if kind in (list, tuple):
        return kind(restored(each, device) for each in value)
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        made = kind((restored(key, device), restored(each, device)) for key, each in value.items())
        if hasattr(value, "_metadata"):
            vars(made)["_metadata"] = value._metadata
        return made
    inner = value["value"]
    match value[_KIND]:
        case "elsewhere":
            # A leaf, or it would have no gradient.
            moved = inner.detach().to(device)
            return (
                nn.Parameter(moved, inner.requires_grad)
                if type(inner) is nn.Parameter
                else moved.requires_grad_(inner.requires_grad)
            )
        case "counter":
            return Counter(restored(inner, device))
        case "set":
            return set(restored(inner, device))
        case "keys":
            return type(inner)(zip(restored(value["keys"], device), restored(inner, device).values(), strict=True))
        case "array":
            return inner.numpy()
        case _:
            return inner.numpy()[()]


def _hashable(made: list[Any]) -> bool:
    """Tell whether all can be keys still: a scalar of NumPy's can, and what stands for it cannot."""
    try:
        hash(tuple(made))
    except TypeError:
        return False
    return True


def _refusal(value: object, where: str, kind: str) -> UsageError:
    return UsageError(
        f"{where} is of the kind {kind}, which a checkpoint cannot hold: to read it back would execute code; keep its "
        "numbers, texts and tensors, in lists and dicts"
    )
