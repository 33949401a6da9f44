"""Within-channel local response normalisation as one native operation, differentiable once."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stantune.kernels.library import kernels


def normalise(x: Tensor, scale: float, power: float, size: int) -> Tensor:
    """Return x · (1 + scale · mean of x² over the window)^-power; zeros beyond the border count in the mean.

    One pass over each image, forward and backward; x is kept for the backward pass, and the second factor where the
    library cannot take it again faster.
    Channels-last and contiguous memory are both read as they are, and the result is laid out in the same way.

    Args:
        x: (B, C, H, W), float32 on the CPU (`library.suits`).
        scale: 0 or more.
        power: 0 or more.
        size: of the window's sides, odd.
    """
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
        # In contiguous memory each channel is an image of its own.
        ctx.layout = layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=layout)
        batch, channels, height, width = x.shape
        each = layout is torch.contiguous_format
        ctx.lrn = lrn = _StanLrn(
            images=batch * channels if each else batch,
            height=height,
            width=width,
            channels=1 if each else channels,
            size=size,
            scale=scale,
            power=power,
        )
        y = torch.empty_like(x, memory_format=layout)
        lrn.input, lrn.output, lrn.threads = x.data_ptr(), y.data_ptr(), torch.get_num_threads()
        if ctx.needs_input_grad[0]:
            factor = None
            if _library().stan_lrn_keeps_factor(ctypes.c_double(power)):
                factor = torch.empty_like(x, memory_format=layout)
                lrn.factor = factor.data_ptr()
            ctx.save_for_backward(x, factor)
        _library().stan_lrn_forward(ctypes.byref(lrn))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        x, factor = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=ctx.layout)
        of_input = torch.empty_like(x, memory_format=ctx.layout)
        lrn = ctx.lrn
        lrn.input, lrn.threads = x.data_ptr(), torch.get_num_threads()
        lrn.factor = None if factor is None else factor.data_ptr()
        lrn.output_gradient, lrn.input_gradient = gradient.data_ptr(), of_input.data_ptr()
        _library().stan_lrn_backward(ctypes.byref(lrn))
        return of_input, None, None, None


def _library() -> ctypes.CDLL:
    library = kernels().library
    assert library is not None, "callers ask library.suits() first"
    return library
