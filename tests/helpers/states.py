"""What a checkpoint holds, as tests compare it: bit for bit, less the times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def what_counts(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state less the times, which are never equal."""
    state: dict[str, Any] = torch.load(path, weights_only=True)["state"]
    return {key: value for key, value in state.items() if key not in ("cost", "start")}


def equal(one: Any, other: Any) -> bool:
    """Tell whether two states are equal bit for bit, kinds of numbers and order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    # NaN is equal to itself here, and -0.0 is not 0.0.
    return repr(one) == repr(other)
