"""Batch norm in training, without learned scale and shift, as one native operation."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.derivatives import gradients_of
from stantune.kernels.gate import readable
from stantune.kernels.library import loaded, suits


def fits(x: Tensor, running_mean: Tensor, running_var: Tensor) -> bool:
    """Tell whether `normalise` can take these: float32 on the CPU, (B, C, H, W) in channels-last memory."""
    return (
        suits(x, running_mean, running_var)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > x.shape[1] > 0  # PyTorch's own form has the message for a single position, or for none
        and running_mean.shape == running_var.shape == x.shape[1:2]
        and running_mean.is_contiguous()
        and running_var.is_contiguous()
    )


def normalise(x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps), mean and biased variance of each channel of the batch.

    The running statistics move by `momentum` towards the mean and the unbiased variance, in place, as in F.batch_norm,
    which computes what does not fit.

    Args:
        x: (B, C, H, W); see `fits`.
        running_mean: (C,), updated.
        running_var: (C,), updated.
        momentum: 0 to 1.
        eps: above 0.

    Returns:
        As x, in the memory format that F.batch_norm would give.
    """
    if not fits(x, running_mean, running_var):
        return F.batch_norm(x, running_mean, running_var, training=True, momentum=momentum, eps=eps)
    result: Tensor = _BatchNorm.apply(x, running_mean, running_var, momentum, eps)  # type: ignore[no-untyped-call]
    return result


class _StanBatchNorm(ctypes.Structure):
    """StanBatchNorm of native/api.hpp."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("eps", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("running_mean", ctypes.c_void_p),
        ("running_var", ctypes.c_void_p),
        ("output_gradient", ctypes.c_void_p),
        ("input_gradient", ctypes.c_void_p),
    ]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float) -> Tensor:
        channels = x.shape[1]
        y = torch.empty_like(x, memory_format=_format(x))
        # Mean, and inverse of the standard deviation.
        statistics = torch.empty(2, channels, dtype=torch.float32, device="cpu")
        ctx.save_for_backward(x, statistics)
        ctx.momentum, ctx.eps = momentum, eps
        norm = _described(x, statistics, momentum, eps)
        norm.output, norm.running_mean, norm.running_var = y.data_ptr(), running_mean.data_ptr(), running_var.data_ptr()
        loaded().stan_batch_norm_forward(ctypes.byref(norm))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, statistics = ctx.saved_tensors
        if (
            torch.is_grad_enabled()
            or not readable(x, statistics, gradient)
            or not x.is_contiguous(memory_format=torch.channels_last)
            or x.shape != gradient.shape
            or statistics.shape != (2, x.shape[1])
        ):

            def again(x: Tensor) -> Tensor:
                return F.batch_norm(x, None, None, training=True, eps=ctx.eps)

            return (*gradients_of(again, (x,), ctx.needs_input_grad[:1], gradient), None, None, None, None)
        gradient, statistics = gradient.contiguous(memory_format=torch.channels_last), statistics.contiguous()
        of_input = torch.empty_like(x, memory_format=_format(x))
        norm = _described(x, statistics, ctx.momentum, ctx.eps)
        norm.output_gradient, norm.input_gradient = gradient.data_ptr(), of_input.data_ptr()
        loaded().stan_batch_norm_backward(ctypes.byref(norm))
        return of_input, None, None, None, None


def _described(x: Tensor, statistics: Tensor, momentum: float, eps: float) -> _StanBatchNorm:
    channels = x.shape[1]
    mean = statistics.data_ptr()
    return _StanBatchNorm(
        rows=x.numel() // channels,
        channels=channels,
        threads=torch.get_num_threads(),
        eps=eps,
        momentum=momentum,
        input=x.data_ptr(),
        mean=mean,
        inverse=mean + statistics.element_size() * channels,
    )


def _format(x: Tensor) -> torch.memory_format:
    # Where a side is 1, both orders may be the same memory.
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
