"""Within-channel local response normalisation as one native operation."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.derivatives import gradients_of
from stantune.kernels.gate import readable
from stantune.kernels.library import address, loaded, suits

# A window's side is counted in 32 bits, and so are an image's numbers, with room for what lies beyond its border.
LARGEST, MOST_NUMBERS = 2**31, 2**28


def fits(x: Tensor, size: int) -> bool:
    """Tell whether native code can do it: float32 on the CPU, (B, C, H, W), in one of two orders in memory."""
    return (
        suits(x)
        and x.dim() == 4
        and _layout(x) is not None
        and x.shape[1:].numel() <= MOST_NUMBERS
        and 0 < size < LARGEST
        and size % 2 == 1
    )


def normalise(x: Tensor, scale: float, power: float, size: int) -> Tensor:
    """Return x · (1 + scale · mean of x² over the window)^-power; zeros beyond the border count in the mean.

    One pass over each image, forward and backward; x is kept for the backward pass, and the power beside it where the
    library cannot take it again faster. Channels-last and contiguous memory are both read as they are, and the result
    is laid out in the same way. What does not fit (`fits`) is computed in plain PyTorch. (Krizhevsky et al., 2012,
    section 3.3, within a channel and over positions, as Caffe's WITHIN_CHANNEL.)

    Args:
        x: (B, C, H, W).
        scale: 0 or more.
        power: 0 or more.
        size: of the window's sides, odd.

    Returns:
        (B, C, H, W).
    """
    if not fits(x, size):
        return _plainly(x, scale, power, size)
    result: Tensor = _Lrn.apply(x, scale, power, size)  # type: ignore[no-untyped-call]
    return result


class _StanLrn(ctypes.Structure):
    """StanLrn of native/api.hpp."""

    _fields_ = [
        ("images", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("power", ctypes.c_double),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        ("output_gradient", ctypes.c_void_p),
        ("input_gradient", ctypes.c_void_p),
    ]


class _Lrn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, power: float, size: int) -> Tensor:
        layout = _layout(x)
        assert layout is not None, "normalise has asked"
        lrn = _described(x, layout, scale, power, size)
        y = torch.empty_like(x, memory_format=layout)
        lrn.output = y.data_ptr()
        if ctx.needs_input_grad[0]:
            factor = None
            if loaded().stan_lrn_keeps_factor(ctypes.c_double(power)):
                factor = torch.empty_like(x, memory_format=layout)
                lrn.factor = factor.data_ptr()
            ctx.save_for_backward(x, factor)
            ctx.layout, ctx.settings = layout, (scale, power, size)
        loaded().stan_lrn_forward(ctypes.byref(lrn))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, factor = ctx.saved_tensors
        layout, settings = ctx.layout, ctx.settings
        if (
            torch.is_grad_enabled()
            or not readable(x, factor, gradient)
            or x.shape != gradient.shape
            or (factor is not None and x.shape != factor.shape)
        ):
            found = gradients_of(lambda x: _plainly(x, *settings), (x,), ctx.needs_input_grad[:1], gradient)
            return (*found, None, None, None)
        x, gradient = x.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
        factor = None if factor is None else factor.contiguous(memory_format=layout)
        of_input = torch.empty_like(x, memory_format=layout)
        lrn = _described(x, layout, *settings)
        lrn.factor = address(factor)
        lrn.output_gradient, lrn.input_gradient = gradient.data_ptr(), of_input.data_ptr()
        loaded().stan_lrn_backward(ctypes.byref(lrn))
        return of_input, None, None, None


def _layout(x: Tensor) -> torch.memory_format | None:
    """Return the order of x's numbers in memory, None for another one than the two that native code reads."""
    if x.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None


def _described(x: Tensor, layout: torch.memory_format, scale: float, power: float, size: int) -> _StanLrn:
    batch, channels, height, width = x.shape
    each = layout is torch.contiguous_format  # there each channel is an image of its own
    return _StanLrn(
        images=batch * channels if each else batch,
        height=height,
        width=width,
        channels=1 if each else channels,
        size=size,
        threads=torch.get_num_threads(),
        scale=scale,
        power=power,
        input=x.data_ptr(),
    )


def _plainly(x: Tensor, scale: float, power: float, size: int) -> Tensor:
    """Do as `normalise` in operations of PyTorch, differentiable as often as they are."""
    mean = F.avg_pool2d(x * x, size, 1, size // 2)
    return x * (1 + scale * mean).pow(-power)
