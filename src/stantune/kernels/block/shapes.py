"""What native code is told of a convolution's sizes, and whether it can do it."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from stantune.kernels.block.follow import POOLS, Follow
from stantune.kernels.block.lists import Lists
from stantune.kernels.library import suits

# Of an output that a maximum follows: an entry's number is kept in 16 bits, and one number stands for "no entry".
MOST_ENTRIES = 2**16 - 2
# Of one image, its output or the weight, and of images: native code counts them in 32 bits, with room for what it pads.
MOST_NUMBERS = 2**28
# Of what the windows of a pooling see, all of them together: native code lists each place of each, and keeps the list.
MOST_SEEN = 2**24


def _fields() -> list[tuple[str, Any]]:
    """The fields of native/api.hpp's StanBlock, in its order."""
    numbers = (
        "batch height width channels filters kernel_h kernel_w stride_h stride_w pad_top pad_left out_h out_w entries "
        "shared grid_h grid_w grid_top grid_left relu_before relu_after pool pool_h pool_w pool_stride_h pool_stride_w "
        "pooled_h pooled_w input_planes output_planes input_gradient_planes winograd threads"
    )
    pointers = (
        "input weight bias begins positions sources output winners kept output_gradient input_gradient "
        "weight_gradient bias_gradient"
    )
    return [(name, ctypes.c_int32) for name in numbers.split()] + [(name, ctypes.c_void_p) for name in pointers.split()]


class StanBlock(ctypes.Structure):
    """StanBlock of native/api.hpp."""

    _fields_ = _fields()


class Shapes(NamedTuple):
    """What a convolution's shapes determine, asked for again and again.

    Attributes:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, kernel height, kernel width).
        out: rows and columns of the convolution's output.
        places: their product.
        output: of what follows, (B, C_out, H_out, W_out).
        seen: places that the windows of a pooling see, all of them together.
        block: a StanBlock with all sizes, without entries, threads and pointers.
    """

    input: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, int]
    places: int
    output: tuple[int, ...]
    seen: int
    block: StanBlock


def native_shapes(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    lists: Lists | None,
    follow: Follow,
) -> Shapes | None:
    """Return the shapes of a convolution that native code can do, None where it is PyTorch's to do or to refuse.

    Arguments are those of `convolve`. Raises ValueError where the lists are not of this batch and output.
    """
    if not suits(input, weight, bias) or not (lists is None or _lists_are_read(lists)):
        return None
    # Asked before what is kept: 1.0, which PyTorch refuses, is equal to 1.
    if any(type(number) is not int for number in (*stride, *padding, *follow.size, *follow.stride)):
        return None
    filters = len(weight) if bias is None else tuple(bias.shape)
    shapes = _shapes(input.shape, weight.shape, filters, stride, padding, follow)
    if shapes is not None and lists is not None and not _lists_fit(lists, len(input), shapes.places):
        raise ValueError(
            f"lists of {len(lists.positions)} entries for {tuple(lists.sources.shape)} places are not those of "
            f"{len(input)} images of {shapes.out[0]}x{shapes.out[1]} places"
        )
    return shapes


def _lists_are_read(lists: Lists) -> bool:
    """Tell whether native code can read the lists; an empty one would be taken for that of all entries."""
    return lists.positions.is_cpu and lists.sources.is_cpu and len(lists.positions) > 0


def _lists_fit(lists: Lists, batch: int, places: int) -> bool:
    if lists.begins is None:
        return lists.sources.numel() == places and len(lists.positions) == lists.most
    return len(lists.begins) == batch + 1 and lists.sources.numel() == batch * places


@lru_cache(maxsize=4096)
def _shapes(
    input: tuple[int, ...],
    weight: tuple[int, ...],
    filters: int | tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    follow: Follow,
) -> Shapes | None:
    """Return what the shapes determine; None where native code was not made for them.

    Args:
        input: its shape.
        weight: its shape.
        filters: how many the weight has, or the bias's shape.
        stride: as in `convolve`.
        padding: as in `convolve`.
        follow: as in `convolve`.
    """
    if len(input) != 4 or len(weight) != 4 or len(stride) != 2 or len(padding) != 4:
        return None
    numbers = (*stride, *padding, *follow.size, *follow.stride)
    batch, channels, height, width = input
    kernel = weight[2:]
    if (
        min(*input, *weight) < 1
        or min(*stride, *follow.size, *follow.stride) < 1
        or min(padding) < 0
        or channels != weight[1]
        or filters not in (weight[0], (weight[0],))
    ):
        return None
    left, right, top, bottom = padding
    out = (
        (height + top + bottom - kernel[0]) // stride[0] + 1,
        (width + left + right - kernel[1]) // stride[1] + 1,
    )
    padded = (height + top + bottom) * (width + left + right) * channels
    if min(out) < 1 or max(batch, padded, math.prod(out) * weight[0], math.prod(weight), *numbers) > MOST_NUMBERS:
        return None
    pooled = follow.pooled(*out)
    if min(pooled) < 1:
        return None
    before = follow.relu and follow.pool != "max"  # ReLU and the maximum may change places
    block = StanBlock(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        filters=weight[0],
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=stride[0],
        stride_w=stride[1],
        pad_top=top,
        pad_left=left,
        out_h=out[0],
        out_w=out[1],
        entries=math.prod(out),
        shared=1,
        grid_h=1,
        grid_w=1,
        relu_before=before,
        relu_after=follow.relu and not before,
        pool=POOLS.index(follow.pool),
        pool_h=follow.size[0],
        pool_w=follow.size[1],
        pool_stride_h=follow.stride[0],
        pool_stride_w=follow.stride[1],
        pooled_h=pooled[0],
        pooled_w=pooled[1],
    )
    seen = math.prod(pooled) * math.prod(map(min, follow.size, out))
    return Shapes(input, weight, out, math.prod(out), (batch, weight[0], *pooled), seen, block)
