"""A convolution's settings, read as F.conv2d reads them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

from torch import Tensor, nn


class Geometry(NamedTuple):
    """A convolution's arguments after the input, as `conv2d_kept` takes them, in two dimensions."""

    weight: Tensor
    bias: Tensor | None
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


class Window(NamedTuple):
    """Settings of a convolution, each with as many numbers as it has sides, the padding in F.pad's order."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def window_of(layer: nn.modules.conv._ConvNd) -> Window | None:
    """Return stride, padding and dilation of a layer as they are now, None where the original would not take them."""
    try:
        return read_window(
            layer.weight.shape[2:],
            hashable(layer.stride),
            # The original, too, reads either the one or the other.
            hashable(layer.padding if layer.padding_mode == "zeros" else [0]),
            hashable(layer.dilation),
        )
    except (TypeError, ValueError):
        return None


def hashable(setting: object) -> Any:
    """Return a setting as a key of what is kept: words, or each number as `whole` reads it."""
    if isinstance(setting, str):
        return setting
    return tuple(map(whole, setting)) if isinstance(setting, tuple | list) else whole(setting)


def whole(number: object) -> int | None:
    """Return a whole number of any type as an int, None for what PyTorch refuses: True and 1.0 are equal to 1."""
    if type(number) is int:
        return number
    return int(number) if isinstance(number, Integral) and not isinstance(number, bool) else None


@lru_cache(maxsize=1024)
def read_window(kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any) -> Window | None:
    """Return a layer's settings, each made `hashable`, as F.conv2d reads them; None where it refuses them, or might.

    Raises ValueError for a setting of another length, or one that is no whole number.
    """
    sides = len(kernel)

    def numbers(setting: Any) -> tuple[int, ...]:
        several = setting if isinstance(setting, tuple) else (setting,)
        several = several * sides if len(several) == 1 else several
        if len(several) != sides or any(type(number) is not int for number in several):
            raise ValueError(setting)
        return several

    strides, dilations = numbers(stride), numbers(dilation)
    if min(*strides, *dilations) < 1:
        return None
    if padding == "same":
        if max(strides) != 1:
            return None
        spans = [step * (taps - 1) for step, taps in zip(dilations, kernel, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in spans]
    elif padding == "valid":
        pairs = [(0, 0)] * sides
    else:
        pairs = [(number, number) for number in numbers(padding)]
    around = tuple(number for pair in reversed(pairs) for number in pair)
    return None if min(around) < 0 else Window(strides, around, dilations)
