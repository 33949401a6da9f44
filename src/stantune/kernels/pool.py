"""Maximum and average pooling by themselves, as native operations whose every bit is PyTorch's."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.block.follow import windows
from stantune.kernels.block.layout import is_last
from stantune.kernels.derivatives import gradients_of
from stantune.kernels.gate import is_somewhere, readable
from stantune.kernels.library import address, loaded, suits

# A place in a window is a byte; sides and steps are such that no product of them is too large for the native code.
PLACES, LONGEST = 256, 2**15
# Of an image's rows, columns and channels: native code counts each in 32 bits, with room for what it pads.
MOST = 2**28
# Of what the windows of a row of windows see, all of them together: native code lists each column of each.
MOST_SEEN = 2**24
# Whole numbers up to it are exact in float32.
EXACT = 2**24


class Pool(NamedTuple):
    """What a pooling is, as nn.MaxPool2d and nn.AvgPool2d have it; pairs are of rows and columns.

    Attributes:
        average: whether a window becomes its average, not its maximum.
        size: of windows.
        stride: between windows.
        padding: on each side.
        ceil: whether a last window that reaches beyond the border counts.
        count_pads: averages: whether padding counts among a window's numbers.
        divisor: averages: what sums are divided by; 0 for the window's numbers.
    """

    average: bool
    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    ceil: bool = False
    count_pads: bool = True
    divisor: int = 0

    def pooled(self, height: int, width: int) -> tuple[int, int]:
        """Return the output's rows and columns, for images of `height` x `width`."""
        sides = zip((height, width), self.size, self.stride, self.padding, strict=True)
        return tuple(windows(*side, self.ceil) for side in sides)  # type: ignore[return-value]  # of two


def fits(x: Tensor, pool: Pool) -> bool:
    """Tell whether `pooled` can take this: float32 on the CPU, (B, C, H, W) in channels-last memory."""
    return (
        suits(x)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        # Where it is both, of images of one channel or one position, PyTorch leaves the output contiguous.
        and not x.is_contiguous()
        # And so it may, where a side of length 1 has a stride of its own, as the batch of `images[0].unsqueeze(0)`: one
        # order has a `view` that the other has not.
        and is_last(x)
        # Native code counts what a row of a window sees in 32 bits, too.
        and max(*x.shape[1:], x.shape[1] * pool.size[1]) <= MOST
        and all(map(_is_known, pool.size, pool.stride, pool.padding))
        and (pool.average or pool.size[0] * pool.size[1] <= PLACES)
        and 0 <= pool.divisor <= EXACT
        and min(pooled := pool.pooled(*x.shape[2:])) > 0
        and pooled[1] * pool.size[1] <= MOST_SEEN
    )


def _is_known(size: int, stride: int, padding: int) -> bool:
    # So each window sees a number at least.
    return 0 < size <= LONGEST and 0 < stride <= LONGEST and 0 <= 2 * padding <= size


def pooled(x: Tensor, pool: Pool) -> Tensor:
    """Return the maximum or the average of each window, as F.max_pool2d or F.avg_pool2d, which do what does not fit.

    Args:
        x: (B, C, H, W); see `fits`.
        pool: which windows, and what becomes of them.

    Returns:
        (B, C, H', W'), in the memory format that PyTorch would give.
    """
    if not fits(x, pool):
        return _plainly(x, pool)
    result: Tensor = _Pool.apply(x, pool)  # type: ignore[no-untyped-call]
    return result


class _StanPool(ctypes.Structure):
    """StanPool of native/api.hpp."""

    _fields_ = [
        ("batch", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("height", "width", "channels")),
        *((name, ctypes.c_int32) for name in ("size_h", "size_w", "stride_h", "stride_w", "pad_h", "pad_w")),
        *((name, ctypes.c_int32) for name in ("pooled_h", "pooled_w", "average", "count_pads", "divisor", "threads")),
        *((name, ctypes.c_void_p) for name in ("input", "output", "winners", "output_gradient", "input_gradient")),
    ]


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Pool) -> Tensor:
        described = _described(x, pool)
        shape = (*x.shape[:2], described.pooled_h, described.pooled_w)
        y = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
        described.input, described.output = x.data_ptr(), y.data_ptr()
        if ctx.needs_input_grad[0]:
            winners = None
            if not pool.average:
                winners = torch.empty_like(y, dtype=torch.uint8)
                described.winners = winners.data_ptr()
            ctx.save_for_backward(x, winners)
            ctx.pool = pool
        loaded().stan_pool_forward(ctypes.byref(described))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, winners = ctx.saved_tensors
        pool: Pool = ctx.pool
        if (
            torch.is_grad_enabled()
            or not readable(x, gradient)
            or x.dim() != 4
            or gradient.shape != (*x.shape[:2], *pool.pooled(*x.shape[2:]))
            or not (pool.average or belong(winners, gradient.shape))
        ):
            return (*gradients_of(lambda x: _plainly(x, pool), (x,), ctx.needs_input_grad[:1], gradient), None)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_input = torch.empty_like(x, memory_format=torch.channels_last)
        described = _described(x, pool)
        described.output_gradient, described.input_gradient = gradient.data_ptr(), of_input.data_ptr()
        described.winners = address(winners)
        loaded().stan_pool_backward(ctypes.byref(described))
        return of_input, None


def belong(winners: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Tell whether these are the winners of an output of this shape: hooks may have made others of them."""
    return (
        winners is not None
        and type(winners) is Tensor
        and winners.dtype is torch.uint8
        and winners.device.type == "cpu"
        and winners.shape == shape
        and winners.is_contiguous(memory_format=torch.channels_last)
        and is_somewhere(winners)
    )


def _plainly(x: Tensor, pool: Pool) -> Tensor:
    """Do as `pooled` in operations of PyTorch, differentiable as often as they are."""
    if pool.average:
        return F.avg_pool2d(x, pool.size, pool.stride, pool.padding, pool.ceil, pool.count_pads, pool.divisor or None)
    return F.max_pool2d(x, pool.size, pool.stride, pool.padding, ceil_mode=pool.ceil)


def _described(x: Tensor, pool: Pool) -> _StanPool:
    # Most of a call's time would go into a structure made field by field.
    made = _StanPool.from_buffer_copy(_template(tuple(x.shape), pool))
    made.threads = torch.get_num_threads()
    return made


@lru_cache(maxsize=1024)
def _template(shape: tuple[int, ...], pool: Pool) -> _StanPool:
    batch, channels, height, width = shape
    rows, columns = pool.pooled(height, width)
    return _StanPool(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        **dict(zip(("size_h", "size_w"), pool.size, strict=True)),
        **dict(zip(("stride_h", "stride_w"), pool.stride, strict=True)),
        **dict(zip(("pad_h", "pad_w"), pool.padding, strict=True)),
        pooled_h=rows,
        pooled_w=columns,
        average=pool.average,
        count_pads=pool.count_pads,
        divisor=pool.divisor,
    )
