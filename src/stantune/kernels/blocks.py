"""A convolution at some of its entries, the fill of the others, ReLU and pooling, as one differentiable operation."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from stantune.kernels.library import kernels

POOLS = ("none", "max", "average")
# Of an output that a maximum follows: an entry's number is kept in 16 bits, and one number stands for "no entry".
MOST_ENTRIES = 2**16 - 2
_LAST = torch.channels_last


class Follow(NamedTuple):
    """What is done to a convolution's filled output.

    Attributes:
        pool: of POOLS; windows are counted from the top left corner, without padding.
        size: of its windows, rows and columns.
        stride: between windows, rows and columns.
        ceil: whether a last window that reaches beyond the border counts.
        relu: ReLU, before or after the pooling.
    """

    pool: str = "none"
    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    ceil: bool = False
    relu: bool = False

    def pooled(self, height: int, width: int) -> tuple[int, int]:
        """Return the output's rows and columns, for a convolution's output of `height` x `width`."""
        if self.pool == "none":
            return height, width
        return tuple(  # type: ignore[return-value]  # of two
            _windows(length, size, stride, self.ceil)
            for length, size, stride in zip((height, width), self.size, self.stride, strict=True)
        )


class Lists(NamedTuple):
    """Which entries are computed, and which of them fills each place of the output.

    Attributes:
        positions: row * W_out + column of each computed entry, int32: (n,) where all images share them, otherwise those
            of one image after the other's.
        sources: which of its image's computed entries fills each place, int32: (H_out * W_out,), or (B, H_out * W_out);
            -1 for a place that `convolve_into` leaves as it is.
        begins: where each image's entries begin in `positions`, int32 (B + 1,); None where all images share them.
        most: the largest number of entries that an image has.
        grid: where the entries form a grid: rows and columns from one to the next, and the first one's.
    """

    positions: Tensor
    sources: Tensor
    begins: Tensor | None
    most: int
    grid: tuple[int, int, int, int] | None = None


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    lists: Lists | None = None,
    follow: Follow = Follow(),  # noqa: B008  (immutable)
) -> Tensor:
    """Convolve at the listed entries, fill the others, and do what follows: STAN's reduced layer (ours).

    Each image is padded, convolved, filled and pooled before the next, so that what lies between the layers stays in
    the processor's caches. The backward pass is the exact adjoint. float32 on the CPU only (`library.suits`).

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        lists: the entries; None for all.
        follow: what is done to the filled output; a maximum over more than MOST_ENTRIES places is PyTorch's own.

    Returns:
        (B, C_out, H_out, W_out), channels last in memory; (H_out, W_out) is `follow.pooled` of the convolution's.
    """
    places = math.prod(_output_size(input, weight, tuple(stride), tuple(padding)))
    own = follow
    if follow.pool == "max" and places > MOST_ENTRIES:
        own = Follow(relu=follow.relu)  # ReLU and the maximum may change places
    output: Tensor = _Block.apply(input, weight, bias, tuple(stride), tuple(padding), lists, own, None)  # type: ignore[no-untyped-call]
    return output if own is follow else F.max_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)


def convolve_into(
    remembered: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    lists: Lists,
) -> Tensor:
    """Convolve at the listed entries and put them among remembered ones: the memo fill of a reduced layer (ours).

    What is remembered is a constant: neither pass reads or writes it. float32 on the CPU only (`library.suits`).

    Args:
        remembered: what all entries had, (B, C_out, H_out, W_out), channels last in memory; it is written into. Not a
            view that autograd follows: it would make its whole base's gradient.
        input: (B, C_in, H, W).
        weight: (C_out, C_in, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        lists: the entries; the source of each other place is -1.

    Returns:
        `remembered`.
    """
    assert remembered.is_contiguous(memory_format=_LAST)
    filled: Tensor = _Block.apply(input, weight, bias, tuple(stride), tuple(padding), lists, Follow(), remembered)  # type: ignore[no-untyped-call]
    return filled


def _output_size(input: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> tuple[int, int]:
    left, right, top, bottom = padding
    return (
        (input.shape[2] + top + bottom - weight.shape[2]) // stride[0] + 1,
        (input.shape[3] + left + right - weight.shape[3]) // stride[1] + 1,
    )


def _fields() -> list[tuple[str, Any]]:
    """The fields of native/api.hpp's StanBlock, in its order."""
    numbers = (
        "batch height width channels filters kernel_h kernel_w stride_h stride_w pad_top pad_left out_h out_w entries "
        "shared grid_h grid_w grid_top grid_left relu_before relu_after pool pool_h pool_w pool_stride_h pool_stride_w "
        "pooled_h pooled_w winograd threads"
    )
    pointers = (
        "input weight bias begins positions sources output winners kept output_gradient input_gradient "
        "weight_gradient bias_gradient"
    )
    return [(name, ctypes.c_int32) for name in numbers.split()] + [(name, ctypes.c_void_p) for name in pointers.split()]


class _StanBlock(ctypes.Structure):
    _fields_ = _fields()


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        lists: Lists | None,
        follow: Follow,
        into: Tensor | None,
    ) -> Tensor:
        input, weight = input.contiguous(memory_format=_LAST), weight.contiguous(memory_format=_LAST)
        bias = None if bias is None else bias.contiguous()
        left, _, top, _ = padding
        batch, channels, height, width = input.shape
        filters, _, *kernel = weight.shape
        out_h, out_w = _output_size(input, weight, stride, padding)
        pooled = follow.pooled(out_h, out_w)
        if into is None:
            output = torch.empty((batch, filters, *pooled), memory_format=_LAST)
        else:
            output = into
            ctx.mark_dirty(into)
        entries = out_h * out_w if lists is None else lists.most
        grid = (1, 1, 0, 0) if lists is None else lists.grid or (0, 0, 0, 0)
        before = follow.relu and follow.pool != "max"  # ReLU and the maximum may change places
        block = _StanBlock(
            batch=batch,
            height=height,
            width=width,
            channels=channels,
            filters=filters,
            kernel_h=kernel[0],
            kernel_w=kernel[1],
            stride_h=stride[0],
            stride_w=stride[1],
            pad_top=top,
            pad_left=left,
            out_h=out_h,
            out_w=out_w,
            entries=entries,
            shared=lists is None or lists.begins is None,
            grid_h=grid[0],
            grid_w=grid[1],
            grid_top=grid[2],
            grid_left=grid[3],
            relu_before=before,
            relu_after=follow.relu and not before,
            pool=POOLS.index(follow.pool),
            pool_h=follow.size[0],
            pool_w=follow.size[1],
            pool_stride_h=follow.stride[0],
            pool_stride_w=follow.stride[1],
            pooled_h=pooled[0],
            pooled_w=pooled[1],
            winograd=kernels().winograd,
            threads=torch.get_num_threads(),
            input=input.data_ptr(),
            weight=weight.data_ptr(),
            bias=_pointer(bias),
            output=output.data_ptr(),
        )
        if lists is not None:
            block.positions, block.sources = lists.positions.data_ptr(), lists.sources.data_ptr()
            block.begins = _pointer(lists.begins)
        winners = kept = None
        if any(ctx.needs_input_grad[:3]):
            if follow.pool == "max":
                winners = torch.empty_like(output, dtype=torch.int16)  # read as uint16
            if before:
                listed = batch * entries if lists is None or lists.begins is None else len(lists.positions)
                kept = torch.empty(listed, filters)
        block.winners, block.kept = _pointer(winners), _pointer(kept)
        _library().stan_block_forward(ctypes.byref(block))
        ctx.save_for_backward(input, weight, bias, winners, kept)
        ctx.block, ctx.lists = block, lists  # the lists' memory must outlive the block's pointers to it
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, _, _ = ctx.saved_tensors
        block = ctx.block
        gradient = gradient.contiguous(memory_format=_LAST)
        of_input = torch.empty_like(input) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        block.output_gradient = gradient.data_ptr()
        block.input_gradient = _pointer(of_input)
        block.weight_gradient = _pointer(of_weight)
        block.bias_gradient = _pointer(of_bias)
        block.threads = torch.get_num_threads()
        _library().stan_block_backward(ctypes.byref(block))
        return of_input, of_weight, of_bias, None, None, None, None, None


def _library() -> ctypes.CDLL:
    library = kernels().library
    assert library is not None, "callers ask library.suits() first"
    return library


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _windows(length: int, size: int, stride: int, ceil: bool) -> int:
    """Return how many windows a pooling without padding has on a side, as PyTorch counts them."""
    over = length - size
    if not ceil:
        return over // stride + 1
    number = -(-over // stride) + 1
    # The last window must begin inside of the image.
    return number if (number - 1) * stride < length else number - 1
